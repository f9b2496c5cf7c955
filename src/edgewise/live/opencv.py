"""OpenCV, imported when it is used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from edgewise.errors import UnavailableError

INSTALL = 'pip install "edgewise[camera]"'


def load_opencv(what: str) -> Any:
    """The module cv2.

    Args:
        what: needs it, for the error.

    Raises:
        UnavailableError: L06, it is not installed.
    """
    try:
        import cv2
    except ImportError as problem:
        raise UnavailableError(f"{what} needs OpenCV", code="L06", why=str(problem), fix=INSTALL) from None
    return cv2


@contextlib.contextmanager
def hushed(cv2: Any) -> Iterator[None]:
    """Inside the block OpenCV does not write its own words to standard error: ours say what is wrong."""
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)
