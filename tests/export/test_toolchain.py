"""Toolchains: whole or not there, never unasked, and found out when they no longer fit. With a real, small package."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgewise import cli
from edgewise.errors import ConfigError, ExportError, UnavailableError
from edgewise.export import toolchain
from edgewise.export.child import run_child
from edgewise.export.toolchain import Toolchain

TINY = Toolchain(
    name="tiny",
    purpose="reads nothing",
    packages=("ordered-set==4.1.0",),
    borrowed=("numpy",),
    modules=("ordered_set", "numpy"),
    download_mb=1,
    disk_mb=1,
)
ROOT = Path(__file__).parents[2]
REMOVE = "from edgewise.export import toolchain\nfrom tests.export.test_toolchain import TINY\ntoolchain.remove(TINY)"
SCRIPT = "import sys, pathlib, ordered_set, numpy\npathlib.Path(sys.argv[1]).write_text(ordered_set.__file__)\n"


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(toolchain.TOOLCHAINS, "tiny", TINY)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the tiny toolchain in it, made once."""
    cache = tmp_path_factory.mktemp("toolchains")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEWISE_CACHE", str(cache))
        said: list[str] = []
        state = toolchain.install(TINY, said.append)
        assert state.installed
        assert state.disk_bytes > 10_000
        assert len(said) == 3
    return cache


@pytest.mark.slow
def test_it_uses_its_own_packages_before_the_borrowed_ones(
    installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEWISE_CACHE", str(installed))
    (tmp_path / "script.py").write_text(SCRIPT)
    toolchain.run("tiny", tmp_path / "script.py", ["found.txt"], tmp_path, 60)
    assert (tmp_path / "found.txt").read_text().startswith(str(installed / "toolchains/tiny"))
    assert sorted(entry.name for entry in (installed / "toolchains").iterdir()) == [".lock", "tiny"]
    assert toolchain.missing("tiny") == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "why"),
    [({"packages": ("ordered-set==4.0.2",)}, "packages changed"), ({"borrowed": ("Pillow",)}, "Pillow changed")],
)
def test_it_is_stale_when_what_it_depends_on_changed(
    installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, tuple[str, ...]], why: str
) -> None:
    monkeypatch.setenv("EDGEWISE_CACHE", str(installed))
    monkeypatch.setitem(toolchain.TOOLCHAINS, "tiny", dataclasses.replace(TINY, **changes))
    with pytest.raises(UnavailableError, match="out of date") as caught:
        toolchain.run("tiny", tmp_path / "script.py", [], tmp_path, 60)
    assert why in caught.value.why
    assert toolchain.missing("tiny") == "edgewise toolchain install tiny"


def test_nothing_is_installed_unasked(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="tiny toolchain is not installed") as caught:
        toolchain.run("tiny", tmp_path / "script.py", [], tmp_path, 60)
    assert caught.value.fix == "edgewise toolchain install tiny"
    assert not toolchain.root().exists()


@pytest.mark.slow
def test_what_fails_leaves_the_earlier_one_and_no_trace(
    installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEWISE_CACHE", str(installed))
    before = (installed / "toolchains/tiny/toolchain.json").read_bytes()
    for changes, what in (
        ({"packages": ("ordered-set==0.0.77",)}, "pip could not install"),
        ({"modules": ("ordered_set", "nothing_like_it")}, "cannot be imported"),
    ):
        with pytest.raises(UnavailableError, match=what) as caught:
            toolchain.install(dataclasses.replace(TINY, **changes), lambda _: None)
        assert caught.value.code == "E88"
        assert "0.0.77" in caught.value.why or "nothing_like_it" in caught.value.why
    assert (installed / "toolchains/tiny/toolchain.json").read_bytes() == before
    assert sorted(entry.name for entry in (installed / "toolchains").iterdir()) == [".lock", "tiny"]


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_installation_is_never_used(sent: signal.Signals, tmp_path: Path) -> None:
    """Stopped while its environment is being filled: nothing is installed, and the next command sweeps what is left."""
    code = (
        "from edgewise.interrupt import listen\nfrom edgewise.export import toolchain\n"
        "from tests.export.test_toolchain import TINY\nlisten()\ntoolchain.install(TINY, print)\n"
    )
    root = toolchain.root()
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 60
        while not list(root.glob(".tiny.*/bin/python")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(sent)
        process.wait(30)
    assert not toolchain.state(TINY).installed
    assert bool(list(root.glob(".tiny.*"))) == (sent is signal.SIGKILL)
    assert toolchain.remove(TINY) == 0
    assert [entry.name for entry in root.iterdir()] == [".lock"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with toolchain._alone():
        done = subprocess.run([sys.executable, "-c", REMOVE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "another process is installing or removing a toolchain" in done.stderr


def test_room_and_borrowed_packages_are_looked_at_first() -> None:
    with pytest.raises(UnavailableError, match="not enough room") as caught:
        toolchain.install(dataclasses.replace(TINY, disk_mb=10**9), lambda _: None)
    assert caught.value.code == "E88"
    with pytest.raises(UnavailableError, match="not installed here") as caught:
        toolchain.install(dataclasses.replace(TINY, borrowed=("numpy", "no-such-thing")), lambda _: None)
    assert caught.value.where == {"packages": "no-such-thing"}
    assert [entry.name for entry in toolchain.root().iterdir()] == [".lock"]


def test_the_command_lists_and_removes(capsys: pytest.CaptureFixture[str]) -> None:
    folder = toolchain.root() / "tiny"
    folder.mkdir(parents=True)
    (folder / "toolchain.json").write_text(json.dumps({**toolchain._identity(TINY), "disk_bytes": 5_000_000}))
    cli.app(["toolchain", "list", "--json"], standalone_mode=False)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["tiny"]["installed"], rows["tiny"]["stale"], rows["tiny"]["disk_bytes"]) == (True, "", 5_000_000)
    assert not rows["litert"]["installed"]
    assert all("==" in package for package in rows["litert"]["packages"])
    cli.app(["toolchain", "remove", "tiny", "--json"], standalone_mode=False)
    told = capsys.readouterr()
    assert json.loads(told.out)["freed_bytes"] > 0
    assert "next: edgewise toolchain install tiny" in told.err
    assert not folder.exists()
    with pytest.raises(ConfigError, match='no toolchain "litrt"') as caught:
        cli.app(["toolchain", "install", "litrt"], standalone_mode=False)
    assert (caught.value.code, caught.value.fix) == ("C94", 'did you mean "litert"?')


def test_each_command_is_documented() -> None:
    page = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    names = [command.name for command in cli.toolchain_app.registered_commands]
    assert sorted(map(str, names)) == ["install", "list", "remove"]
    assert all(f"edgewise toolchain {name}" in page for name in names)


def test_a_converter_that_fails_or_hangs_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "tell nobody")
    seen = run_child(
        [sys.executable, "-c", "import os; print(sorted(os.environ))"], tmp_path, converter="converter", seconds=60
    )
    assert "HF_HUB_OFFLINE" in seen
    assert "SECRET_TOKEN" not in seen
    with pytest.raises(ExportError, match="could not convert") as failed:
        run_child(
            [sys.executable, "-c", "print('dull')\nraise SystemExit('no such operator')"], tmp_path, converter="c"
        )
    assert failed.value.code == "X20"
    assert "exit code 1" in failed.value.why
    assert "no such operator" in failed.value.why
    sleeper = "import subprocess, sys, pathlib\np = subprocess.Popen(['sleep', '60'])\n"
    sleeper += "pathlib.Path('pid').write_text(str(p.pid))\np.wait()"
    with pytest.raises(ExportError, match="stopped after 2 s") as hung:
        run_child([sys.executable, "-c", sleeper], tmp_path, converter="c", seconds=2)
    assert hung.value.code == "X21"
    child = int((tmp_path / "pid").read_text())
    time.sleep(0.2)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
