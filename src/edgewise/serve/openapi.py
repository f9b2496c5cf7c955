"""The description of the server's addresses, as OpenAPI 3.1. A test holds it against the routes and their answers."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from edgewise.serve.limits import Limits
from edgewise.serve.refusals import STATUS

Schema = dict[str, Any]


def document(limits: Limits) -> Schema:
    """The description of a server with these limits."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgewise serve",
            "version": metadata.version("edgewise"),
            "description": "Classifies pictures with one bundle, or with two side by side. Every address needs the "
            "token that the server printed, as `Authorization: Bearer TOKEN`.",
        },
        "security": [{"token": []}],
        "paths": _paths(limits),
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _SCHEMAS,
            "responses": {
                "refused": _error("Foreign Host or Origin, no or wrong token, or a method that is never served"),
            },
        },
    }


def _paths(limits: Limits) -> Schema:
    mb = limits.upload_bytes >> 20
    picture = {"type": "string", "format": "binary"}
    return {
        "/v1/classify": {
            "post": {
                "operationId": "classify",
                "summary": f"Classify one picture of at most {mb} MB and {limits.pixels} pixels.",
                "parameters": [
                    {
                        "name": "threshold",
                        "in": "query",
                        "description": "`label` is null below this confidence; default: each bundle's own threshold.",
                        "schema": {"type": "number", "minimum": 0, "maximum": 1},
                    }
                ],
                "requestBody": {
                    "required": True,
                    "description": "The picture itself, whatever the type says, or a form with one file.",
                    "content": {
                        "image/*": {},
                        "application/octet-stream": {},
                        "multipart/form-data": {
                            "schema": {"type": "object", "properties": {"image": picture}, "required": ["image"]}
                        },
                    },
                },
                "responses": {
                    "200": _json("What each bundle says of the picture.", _ref("Classified")),
                    "400": _error("The form or the threshold cannot be read"),
                    "403": {"$ref": "#/components/responses/refused"},
                    "408": _error(f"The picture did not arrive within {limits.body_s:g} s"),
                    "413": _error("The picture has too many bytes or pixels"),
                    "422": _error("Not a picture that can be read"),
                    "503": _busy(),
                },
            }
        },
        "/v1/model": _get("model", "The bundles that are served, the live source, the limits.", _ref("Model")),
        "/v1/openapi.json": _get("description", "This description.", {"type": "object"}),
        "/healthz": _get("health", "Whether the server answers, and the state of the live source.", _ref("Health")),
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "Figures in the text format of Prometheus.",
                "responses": {
                    "200": {
                        "description": "One figure a line.",
                        "content": {"text/plain": {"schema": {"type": "string"}}},
                    },
                    "403": {"$ref": "#/components/responses/refused"},
                },
            }
        },
    }


def _get(name: str, summary: str, schema: Schema) -> Schema:
    responses = {"200": _json(summary, schema), "403": {"$ref": "#/components/responses/refused"}}
    return {"get": {"operationId": name, "summary": summary, "responses": responses}}


def _json(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _error(description: str) -> Schema:
    return _json(description, _ref("Error"))


def _busy() -> Schema:
    found = _error("Too many pictures at once")
    return found | {"headers": {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Schema, optional: Schema | None = None) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


_SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_MS: Schema = {"type": "number", "minimum": 0, "description": "Milliseconds."}

_SCHEMAS: Schema = {
    "Classified": _object(
        {
            "name": {**_TEXT, "description": "The file name that a form gave, else empty."},
            "width": _COUNT,
            "height": _COUNT,
            "ms": _object({"decode": _MS}),
            "results": {"type": "array", "minItems": 1, "maxItems": 2, "items": _ref("Result")},
        }
    ),
    "Result": _object(
        {
            "bundle": _TEXT,
            "label": {
                "type": ["string", "null"],
                "description": "null: unknown, the confidence is below the threshold.",
            },
            "best": {**_TEXT, "description": "The most likely label, whatever the threshold."},
            "confidence": _SHARE,
            "top": {
                "type": "array",
                "minItems": 1,
                "maxItems": 5,
                "items": _object({"label": _TEXT, "confidence": _SHARE}),
            },
            "ms": _object({"prepare": _MS, "classify": _MS}),
        }
    ),
    "Model": _object(
        {
            "edgewise": _TEXT,
            "models": {"type": "array", "minItems": 1, "maxItems": 2, "items": _ref("Bundle")},
            "source": {"type": ["string", "null"]},
            "limits": _object(
                {"upload_bytes": _COUNT, "pixels": _COUNT, "body_s": {"type": "number"}, "stale_s": {"type": "number"}}
            ),
        }
    ),
    "Bundle": _object(
        {
            "name": _TEXT,
            "format": _TEXT,
            "precision": _TEXT,
            "scheme": _TEXT,
            "labels": {"type": "array", "items": _TEXT},
            "input": _object(
                {"height": _COUNT, "width": _COUNT, "channels": {"enum": [1, 3]}, "fit": _TEXT, "interpolation": _TEXT}
            ),
            "temperature": {"type": ["number", "null"]},
            "unknown_below": {**_SHARE, "type": ["number", "null"]},
            "model_bytes": _COUNT,
            "runtime": {"type": "object", "additionalProperties": _TEXT},
        }
    ),
    "Health": _object({"status": {"const": "ok"}, "live": {"enum": ["live", "no signal", "ended", None]}}),
    "Error": _object(
        {
            "error": {"enum": list(STATUS), "description": "Explained in docs/errors.md."},
            "what": _TEXT,
            "where": {"type": "object", "additionalProperties": _TEXT},
            "why": _TEXT,
            "fix": _TEXT,
        }
    ),
}
