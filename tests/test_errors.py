"""One voice: what, where, why, fix, and an exit code that is documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgewise import errors

ROOT = Path(__file__).parents[1]


def test_a_message_says_what_where_why_and_fix() -> None:
    problem = errors.DataError(
        "cannot decode image", code="D07", where={"file": "cat/1.jpg"}, why="0 bytes\ntwice", fix="delete it"
    )
    assert str(problem) == (
        "error[D07]: cannot decode image\n  file: cat/1.jpg\n  why: 0 bytes\n    twice\n  fix: delete it\n"
        "  see: docs/errors.md#d07"
    )
    assert problem.as_dict()["exit_code"] == 3


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("ConfigError", 2),
        ("DataError", 3),
        ("UnavailableError", 4),
        ("GateError", 5),
        ("UntrustedError", 6),
        ("NoEffect", 1),
    ],
)
def test_exit_codes(kind: str, code: int) -> None:
    assert getattr(errors, kind).exit_code == code


def test_nearest_offers_names() -> None:
    assert errors.nearest("epohcs", ["epochs", "lr"]) == 'did you mean "epochs"?'
    assert errors.nearest("zzz", ["b", "a"]) == "known: a, b"
    assert errors.nearest("zzz", [f"name{i}" for i in range(40)]) == ""


def raised_codes() -> set[str]:
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    return set(re.findall(r'code="([A-Z]\d\d)"', text)) | set(re.findall(r'"([CDEGNTUXB]\d\d)"', text))


def test_every_code_is_explained_and_no_other() -> None:
    explained = set(re.findall(r"^### ([A-Z]\d\d)\b", (ROOT / "docs/errors.md").read_text(encoding="utf-8"), re.M))
    assert explained == raised_codes()


def test_a_code_belongs_to_one_kind_of_error() -> None:
    kinds: dict[str, set[str]] = {}
    for path in (ROOT / "src").rglob("*.py"):
        pattern = r'(\w+)\(\s*(?:f?"[^"]*"|f?\'[^\']*\'|[^()]*?),\s*code="([A-Z]\d\d)"'
        for kind, code in re.findall(pattern, path.read_text(encoding="utf-8")):
            kinds.setdefault(code, set()).add(kind)
    assert kinds
    assert not {code: found for code, found in kinds.items() if len(found) > 1}
