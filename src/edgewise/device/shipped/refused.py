"""What every part of a bundle's ``runner.py`` says: refusals, and lines of JSON. Python 3.6, standard library."""

import json
from typing import Any, Dict


class Refused(Exception):
    """An expected failure: what, where, why and how to mend it."""

    def __init__(self, exit_code: int, code: str, what: str, where: str, why: str, fix: str) -> None:
        super().__init__(what)
        self.exit_code = exit_code
        self.message = "error[{}]: {}\n  where: {}\n  why: {}\n  fix: {}".format(code, what, where, why, fix)


def say(line: Dict[str, Any]) -> None:
    """Print one answer."""
    print(json.dumps(line), flush=True)
