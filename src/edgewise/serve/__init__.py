"""A page and an address for a bundle on this machine. No torch here.

What is above the wall of Starlette and uvicorn, which come with `edgewise[serve]`, is imported when a server is made.
"""

from __future__ import annotations

import importlib.util

from edgewise.errors import UnavailableError

NEEDED = ("starlette", "uvicorn", "wsproto")


def check_installed() -> None:
    """Make sure that what the server is made of is there.

    Raises:
        UnavailableError: V01, a package is missing.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UnavailableError(
            "the server's packages are not installed",
            code="V01",
            why=f"missing: {', '.join(missing)}",
            fix='pip install "edgewise[serve]"',
        )
