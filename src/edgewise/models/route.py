"""Whether an address can be reached at all, found out in seconds.

The libraries that fetch pretrained weights try again and again for most of a minute when there is no network.
"""

from __future__ import annotations

import http.client
import queue
import ssl
import threading
import urllib.error
import urllib.request

from edgewise.errors import UnavailableError

PATIENCE_S = 3.0
"""How long an address may take to answer anything at all."""


def require(url: str, model: str) -> None:
    """Return as soon as the address answers, whatever it says; proxies of the environment are used.

    Args:
        url: where the weights are.
        model: for the message.

    Raises:
        UnavailableError: no answer within `PATIENCE_S` (E20).
    """
    told: queue.Queue[str] = queue.Queue()
    # A thread, because looking up a name cannot be given a time limit.
    threading.Thread(target=lambda: told.put(_ask(url)), daemon=True).start()
    try:
        problem = told.get(timeout=PATIENCE_S)
    except queue.Empty:
        problem = f"no answer within {PATIENCE_S:.0f} s"
    if problem:
        raise unreachable(model, f"{url}: {problem}")


def unreachable(model: str, why: str) -> UnavailableError:
    """The error that says that pretrained weights cannot be had."""
    return UnavailableError(
        "the pretrained weights cannot be fetched",
        code="E20",
        where={"model": model},
        why=why,
        fix="connect to the network once, set pretrained to false, or give a file with --weights",
    )


def _ask(url: str) -> str:
    """Why an address does not answer; "" when it does."""
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.build_opener().open(request, timeout=PATIENCE_S).close()  # knows the proxies of this moment
    except (urllib.error.HTTPError, http.client.HTTPException):
        return ""  # it answered
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "reason", problem)
        # The libraries bring certificates of their own: whether they trust it is for them to say.
        return "" if isinstance(reason, ssl.SSLError) else str(reason)
    return ""
