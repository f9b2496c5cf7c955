"""Case 21: the place for results is read-only, becomes so, or is gone."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edgewise import runs
from edgewise.errors import UnavailableError


def test_a_place_that_takes_nothing_is_told_at_the_start() -> None:
    with pytest.raises(UnavailableError, match="cannot write the run folder") as caught:
        runs.create_run(Path("/proc/edgewise/run")).__enter__()
    assert caught.value.exit_code == 4
    assert "/proc/edgewise/run" in str(caught.value)


def test_a_place_that_becomes_read_only_is_an_error_and_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "results.json"
    runs.write_json(target, {"a": 1})

    def refuse(self: Path, data: bytes) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(UnavailableError, match="Read-only file system") as caught:
        runs.write_json(target, {"a": 2})
    assert str(target) in str(caught.value)
    monkeypatch.undo()
    assert '"a": 1' in target.read_text()


def test_a_folder_that_vanishes_does_not_hide_the_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Path, data: bytes) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    def fail() -> None:
        with runs.create_run(tmp_path / "run"):
            monkeypatch.setattr(Path, "write_bytes", refuse)
            raise ValueError("the first error")

    with pytest.raises(ValueError, match="the first error"):
        fail()
    assert "run.json could not be brought up to date" in capsys.readouterr().err
