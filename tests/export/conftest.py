"""The toolchains that the tests convert with: made once beside the packages of the tests, and used again."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewise.errors import UnavailableError
from edgewise.export import toolchain

PLACE = Path(sys.prefix) / "edgewise-test-cache"


@pytest.fixture(scope="session")
def toolchains() -> Path:
    """A cache folder in which the litert toolchain is installed. Several workers may ask at once; one makes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEWISE_CACHE", str(PLACE))
        deadline = time.monotonic() + 1200
        while toolchain.missing("litert"):
            try:
                toolchain.install(toolchain.find("litert"), print)
            except UnavailableError as problem:
                if problem.code != "E02" or time.monotonic() > deadline:
                    raise
                time.sleep(1)
    return PLACE


@pytest.fixture(scope="module")
def converting(toolchains: Path) -> Iterator[None]:
    """Toolchains can be used while this fixture is alive, whatever the cache of the single test is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toolchain, "root", lambda: toolchains / "toolchains")
        yield
