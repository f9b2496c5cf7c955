"""The addresses: decisions equal edgewise's own, errors are told, the description is true, the figures add up."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Route

from edgewise.bundle import read_manifest
from edgewise.device import RUNTIMES
from edgewise.device.preprocess import load_pixels, softmax
from edgewise.serve.app import Parts, routes
from edgewise.serve.limits import Limits
from edgewise.serve.metrics import Metrics
from edgewise.serve.page import FILES
from edgewise.serve.refusals import STATUS
from edgewise.serve.upload import Intake
from tests.serve.serving import Reply, Running, serving, wait_until


@pytest.fixture(scope="module")
def both(tiny: Path, wide: Path) -> Iterator[Running]:
    """A server of two bundles side by side."""
    with serving(tiny, wide) as running:
        yield running


def own(bundle: Path, picture: Path) -> Any:
    """Probabilities of a picture as any other room of edgewise makes them, float32 (classes,)."""
    manifest = read_manifest(bundle)
    pixels = load_pixels(picture, **manifest.input.preprocessing())
    scores = RUNTIMES["onnx"].load(bundle / manifest.model_file).scores(pixels[np.newaxis])
    return softmax(scores, manifest.thresholds.get("temperature", 1.0))[0]


@pytest.mark.parametrize("colour", ["red", "green", "blue"])
def test_decisions_are_those_of_edgewise_to_the_bit(
    both: Running, tiny: Path, wide: Path, pictures: dict[str, Path], colour: str
) -> None:
    reply = both.classify(pictures[colour])
    assert reply.status == 200
    for bundle, result in zip((tiny, wide), reply.json()["results"], strict=True):
        manifest, expected = read_manifest(bundle), own(bundle, pictures[colour])
        assert result["best"] == result["label"] == manifest.labels[int(np.argmax(expected))] == colour
        told = {one["label"]: np.float32(one["confidence"]) for one in result["top"]}
        assert [told[label] for label in manifest.labels] == list(expected)
        assert result["confidence"] == float(expected.max())
        assert result["bundle"] == manifest.name


def test_the_runner_says_the_same(server: Running, tiny: Path, pictures: dict[str, Path]) -> None:
    done = subprocess.run(
        [sys.executable, str(tiny / "runner.py"), "classify", *map(str, pictures.values())],
        capture_output=True,
        text=True,
        check=True,
    )
    for line, picture in zip(done.stdout.splitlines(), pictures.values(), strict=True):
        said, result = json.loads(line), server.classify(picture).json()["results"][0]
        assert said["label"] == result["label"]
        assert said["confidence"] == round(result["confidence"], 6)


def test_thresholds_are_the_bundles_own_unless_one_is_given(both: Running, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (140, 110, 100)).save(tmp_path / "muddy.png")
    tiny, wide = both.classify(tmp_path / "muddy.png").json()["results"]
    assert 1 / 3 < tiny["confidence"] < 0.6
    assert (tiny["label"], tiny["best"]) == (None, "red")  # below the manifest's 0.6
    assert (wide["label"], wide["best"]) == ("red", "red")  # its manifest has none
    for threshold, label in ((0.2, "red"), (tiny["confidence"], "red"), (0.99, None)):
        results = both.classify(tmp_path / "muddy.png", f"?threshold={threshold}").json()["results"]
        assert results[0]["label"] == label
    for bad in ("2", "-0.1", "nan", "inf", "x", "<script>"):
        reply = both.classify(tmp_path / "muddy.png", f"?threshold={bad}")
        assert (reply.status, reply.json()["error"]) == (400, "V15")


def multipart(data: bytes, name: str) -> tuple[bytes, dict[str, str]]:
    head = f'--B\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
    return head + data + b"\r\n--B--\r\n", {"Content-Type": "multipart/form-data; boundary=B"}


def test_forms_and_bytes_are_answered_alike(server: Running, pictures: dict[str, Path]) -> None:
    data = pictures["green"].read_bytes()
    plain = server.classify(data).json()
    name = "<img src=x onerror=alert(1)> ../../etc/passwd"
    body, headers = multipart(data, name)
    reply = server.ask("/v1/classify", method="POST", body=body, headers=headers)
    told = reply.json()
    assert told["name"] == name
    assert plain["name"] == ""
    assert reply.headers["content-type"] == "application/json"
    for one in (told, plain):
        one.pop("name"), one.pop("ms"), one["results"][0].pop("ms")
    assert told == plain
    assert (told["width"], told["height"]) == (131, 97)


def test_a_body_in_chunks_is_taken(server: Running, pictures: dict[str, Path]) -> None:
    data = pictures["blue"].read_bytes()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (data[:10], data[10:])) + b"0\r\n\r\n"
    reply = server.ask("/v1/classify", method="POST", body=chunks, headers={"Transfer-Encoding": "chunked"})
    assert reply.json()["results"][0]["label"] == "blue"


def encoded(form: str, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, 200 if mode == "L" else (200, 30, 30)).save(stream, form)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF"])
def test_all_formats_of_edgewise_are_taken(server: Running, form: str) -> None:
    assert server.classify(encoded(form)).json()["results"][0]["best"] == "red"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "V13"),
        (b"<html><script>alert(1)</script></html>", 422, "V13"),
        (encoded("PNG")[:60], 422, "V13"),
        (encoded("JPEG")[:200], 422, "V13"),
        (b"%PDF-1.4" + bytes(100), 422, "V13"),
        (encoded("PNG", (6000, 6000), "L"), 413, "V10"),
    ],
)
def test_what_is_no_picture_is_told(server: Running, body: bytes, status: int, code: str) -> None:
    reply = server.classify(body)
    assert (reply.status, reply.json()["error"]) == (status, code)
    assert set(reply.json()) == {"error", "what", "where", "why", "fix"}
    assert server.ask("/healthz").json() == {"status": "ok", "live": None}


def test_addresses_and_methods_that_are_not_there(server: Running) -> None:
    for path in ("/nothing", "/v1/model/", "/V1/model", "/v1/classify/x", "/docs", "//", "/static/style.css"):
        reply = server.ask(path)
        assert (reply.status, reply.json()["error"]) == (404, "V06"), path
    for path, method, allowed in (
        ("/v1/classify", "GET", "POST"),
        ("/v1/model", "POST", "GET, HEAD"),
        ("/", "POST", ""),
    ):
        reply = server.ask(path, method=method)
        assert (reply.status, reply.json()["error"]) == (405, "V07")
        assert set(allowed.split(", ")) <= {*reply.headers["allow"].split(", "), ""}
    assert server.ask("/v1/model", method="HEAD").body == b""


def parts() -> Parts:
    """What the table of routes needs and nothing that it runs."""
    return Parts([], Limits(), Metrics(), Intake(Limits()), ThreadPoolExecutor(1))


def described(server: Running) -> dict[str, Any]:
    document: dict[str, Any] = server.ask("/v1/openapi.json").json()
    return document


def test_the_description_is_valid_openapi_3_1_and_names_the_routes_that_are_there(server: Running) -> None:
    document = described(server)
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()
    there = {
        route.path: route.methods - {"HEAD"} for route in routes(parts()) if isinstance(route, Route) and route.methods
    }
    told = {path: {method.upper() for method in known} for path, known in document["paths"].items()}
    assert told == {path: methods for path, methods in there.items() if path not in FILES}
    for path, known in told.items():
        for method in ("GET", "POST"):
            status = server.ask(path, method=method, body=b"" if method == "POST" else None).status
            assert (status != 405) == (method in known), (path, method)
    assert document["components"]["schemas"]["Error"]["properties"]["error"]["enum"] == list(STATUS)


def fits(document: dict[str, Any], path: str, method: str, reply: Reply) -> None:
    """The answer is one that the description tells of, and its body is as the schema says."""
    known = document["paths"][path][method]["responses"]
    response = known[str(reply.status)]
    if "$ref" in response:
        response = document["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
    ((kind, content),) = response["content"].items()
    assert reply.headers["content-type"].split(";")[0] == kind
    if kind == "application/json":
        schema = {**content["schema"], "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(reply.json())
    for name in response.get("headers", {}):
        assert name.lower() in reply.headers


def test_real_answers_are_as_the_description_says(both: Running, tiny: Path, pictures: dict[str, Path]) -> None:
    document = described(both)
    for path in ("/v1/model", "/v1/openapi.json", "/healthz", "/metrics"):
        for token in (None, "wrong"):
            fits(document, path, "get", both.ask(path, token=token))
    body, headers = multipart(pictures["red"].read_bytes(), "red.png")
    replies = [
        both.classify(pictures["red"]),
        both.ask("/v1/classify", method="POST", body=body, headers=headers),
        both.ask("/v1/classify", method="POST", body=body[:-20], headers=headers),
        both.ask("/v1/classify", method="POST", body=body, token="wrong"),
        both.classify(b"nothing"),
        both.ask("/v1/classify", method="POST", headers={"Content-Length": str(1 << 40)}),
    ]
    assert [reply.status for reply in replies] == [200, 200, 400, 403, 422, 413]
    for reply in replies:
        fits(document, "/v1/classify", "post", reply)
    small = Limits(waiting=0, body_s=0.3)
    with serving(tiny, limits=small) as busy:
        reply = busy.classify(pictures["red"])
        assert reply.status == 503
        fits(described(busy), "/v1/classify", "post", reply)
    with serving(tiny, limits=Limits(body_s=0.3)) as hasty:
        reply = hasty.ask("/v1/classify", method="POST", body=b"x", headers={"Content-Length": "1000"})
        assert reply.status == 408
        fits(described(hasty), "/v1/classify", "post", reply)


def test_the_model_is_told(both: Running, tiny: Path) -> None:
    facts = both.ask("/v1/model").json()
    assert [model["name"] for model in facts["models"]] == ["tiny", "wide"]
    one, other = facts["models"]
    assert (one["temperature"], one["unknown_below"]) == (0.53, 0.6)
    assert (other["temperature"], other["unknown_below"]) == (None, None)
    assert one["labels"] == ["red", "green", "blue"]
    assert one["model_bytes"] == (tiny / "model.onnx").stat().st_size
    assert facts["source"] is None


def test_two_bundles_of_one_name_are_told_apart(tiny: Path, pictures: dict[str, Path]) -> None:
    with serving(tiny, tiny) as running:
        results = running.classify(pictures["red"]).json()["results"]
        assert [result["bundle"] for result in results] == ["tiny", "tiny (2)"]
        assert results[0]["top"] == results[1]["top"]


def figures(running: Running) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = running.ask("/metrics").body.decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_are_prometheus_text_and_add_up(tiny: Path, wide: Path, pictures: dict[str, Path]) -> None:
    with serving(tiny, wide) as running:
        for _ in range(3):
            running.classify(pictures["red"])
        running.classify(b"nothing")
        running.ask("/" + "x" * 50)
        running.ask("/v1/model", token="wrong")
        found = figures(running)

    def one(name: str, **labels: str) -> float:
        return found[name, tuple(sorted(labels.items()))]

    classify = {"route": "/v1/classify"}
    assert one("edgewise_requests_total", **classify, method="POST", status="200") == 3
    assert one("edgewise_requests_total", **classify, method="POST", status="422") == 1
    assert one("edgewise_request_errors_total", **classify) == 1
    assert one("edgewise_requests_total", route="(none)", method="GET", status="404") == 1
    assert one("edgewise_requests_total", route="(none)", method="any", status="403") == 1
    assert one("edgewise_request_seconds_count", **classify) == 4
    assert one("edgewise_request_seconds_bucket", **classify, le="+Inf") == 4
    buckets = [
        value
        for (name, labels), value in found.items()
        if name.endswith("_bucket") and ("route", "/v1/classify") in labels
    ]
    assert buckets == sorted(buckets)
    assert 0 < one("edgewise_request_seconds_sum", **classify) < 60
    for bundle in ("tiny", "wide"):
        for stage in ("prepare", "classify"):
            assert one("edgewise_stage_seconds_count", source="upload", bundle=bundle, stage=stage) == 3
            assert one("edgewise_stage_seconds_sum", source="upload", bundle=bundle, stage=stage) > 0
    assert one("edgewise_stage_seconds_count", source="upload", bundle="", stage="decode") == 3
    assert one("edgewise_waiting_pictures") == 0
    assert one("process_resident_memory_bytes") > 1e6


def test_no_request_makes_a_label_of_its_own(server: Running) -> None:
    for path in ('/x"y\n', "/%22%0a", "/v1/model?a=b"):
        server.ask(path.replace("\n", "%0a").replace('"', "%22"))
    for method in ("BREW", "OPTIONS"):
        server.ask("/", method=method)
    text = server.ask("/metrics").body.decode()
    assert "BREW" not in text
    assert re.findall(r'route="([^"]*)"', text)
    assert set(re.findall(r'route="([^"]*)"', text)) <= {
        *FILES,
        "/v1/classify",
        "/v1/model",
        "/v1/openapi.json",
        "/metrics",
    } | {
        "/healthz",
        "(none)",
        "/v1/live",
    }


def test_an_error_of_the_server_is_told_without_its_inside(
    tiny: Path, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a secret of the server")

    with serving(tiny) as running:
        monkeypatch.setattr("edgewise.serve.app.answer", broken)
        reply = running.classify(pictures["red"])
        assert (reply.status, reply.json()["error"]) == (500, "V08")
        assert b"secret" not in reply.body
        assert "Content-Security-Policy".lower() in reply.headers
        wait_until(lambda: any("a secret of the server" in line for line in running.lines))
        monkeypatch.undo()
        assert running.classify(pictures["red"]).status == 200
