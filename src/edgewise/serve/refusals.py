"""Requests that are refused: which HTTP status belongs to which error, and how the answer is written."""

from __future__ import annotations

from typing import Any

from edgewise.errors import DataError, EdgewiseError, UnavailableError, UntrustedError
from edgewise.serve.limits import Limits

STATUS: dict[str, int] = {
    "V05": 403,
    "V06": 404,
    "V07": 405,
    "V08": 500,
    "V10": 413,
    "V11": 408,
    "V12": 400,
    "V13": 422,
    "V14": 503,
    "V15": 400,
}
"""Error code -> HTTP status. A code that is not here ends as 500: it is the server's fault."""

RETRY_AFTER_S = 1


def answer_of(problem: EdgewiseError) -> dict[str, Any]:
    """What the body of the answer says: `error`, `what`, `where`, `why`, `fix`."""
    told = problem.as_dict()
    del told["exit_code"]
    return told


def not_let_in(why: str) -> UntrustedError:
    """The request fails one of the checks of `edgewise.serve.access`."""
    return UntrustedError(
        "refused",
        code="V05",
        why=why,
        fix="open the address that `edgewise serve` printed, or send `Authorization: Bearer TOKEN`",
    )


def not_here() -> DataError:
    """No such address; the known ones are a fixed table."""
    return DataError("there is nothing at this address", code="V06", fix="GET /v1/openapi.json lists what there is")


def not_so() -> DataError:
    """The address is served, but not with this method."""
    return DataError("not with this method", code="V07", fix="GET /v1/openapi.json lists what there is")


def unexpected() -> EdgewiseError:
    """The server failed; what happened stands in its log."""
    return EdgewiseError("the server failed", code="V08", fix="the terminal of `edgewise serve` says where")


def too_large(why: str, fix: str) -> DataError:
    """The picture has more bytes or pixels than are taken."""
    return DataError("the picture is too large", code="V10", why=why, fix=fix)


def too_slow(limits: Limits) -> DataError:
    """The picture did not arrive in time."""
    return DataError(
        "the picture came too slowly",
        code="V11",
        why=f"it has to be sent within {limits.body_s:g} s",
        fix="send it again",
    )


def malformed(why: str) -> DataError:
    """A multipart body that cannot be read, or does not hold exactly one picture."""
    return DataError(
        "the form cannot be read",
        code="V12",
        why=why,
        fix="send one file: curl -F image=@picture.jpg, or the picture itself: curl --data-binary @picture.jpg",
    )


def no_picture(why: str) -> DataError:
    """The bytes are no picture that edgewise reads."""
    return DataError(
        "not a picture that can be read", code="V13", why=why, fix="send a JPEG, PNG, WebP, GIF, BMP, PPM or TIFF file"
    )


def busy(why: str) -> UnavailableError:
    """More pictures at once than are taken; the answer says when to come again."""
    return UnavailableError("the server is busy", code="V14", why=why, fix=f"send it again after {RETRY_AFTER_S} s")


def bad_threshold(text: str) -> DataError:
    """`?threshold=` is not a share of 1."""
    return DataError(
        "not a threshold", code="V15", where={"threshold": text[:40]}, fix="a number from 0 to 1, e.g. ?threshold=0.8"
    )
