"""The command as a user meets it: what it prints, how it ends, what it says when something is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgewise import cli, serve
from edgewise.errors import UnavailableError
from edgewise.serve.source import Asked
from tests.serve.serving import Socket, command, listening, wait_until


def edgewise(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgewise", "serve", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1", **environment},
        check=False,
    )


def test_words_become_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noted(options: object, log: object) -> None:
        seen.append(options)
        raise UnavailableError("enough", code="V02")

    monkeypatch.setattr("edgewise.serve.server.make_ready", noted)
    for words in (
        ["serve", "a"],
        [
            "serve",
            "a",
            "b",
            "--host",
            "0.0.0.0",
            "--port",
            "9000",
            "--token",
            "t" * 20,
            "--name",
            "board",
            "--threads",
            "2",
        ],
        [
            "serve",
            "a",
            "--source",
            "usb:0",
            "--detector",
            "haar",
            "--every",
            "5",
            "--smooth",
            "3",
            "--camera",
            "320x240@15",
        ],
    ):
        with pytest.raises(UnavailableError, match="enough"):
            cli.app(words, standalone_mode=False)
    from edgewise.serve.server import Options

    assert seen == [
        Options((Path("a"),)),
        Options((Path("a"), Path("b")), "0.0.0.0", 9000, "t" * 20, ("board",), 2),
        Options((Path("a"),), live=Asked("usb:0", "haar", 5, smooth=3, camera="320x240@15")),
    ]


def test_it_prints_where_it_is_and_what_to_try(tiny: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgewise", "serve", str(tiny), "--port", "0", "--token", "a-token-of-the-tests"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    lines = [process.stdout.readline() for _ in range(5)]
    process.send_signal(signal.SIGINT)
    rest, said = process.communicate(timeout=20)
    (address,) = [line.split()[1].partition("?")[0] for line in lines if line.startswith("page: ")]
    assert "".join(lines) + rest == (
        "serving tiny (onnx fp32)\n"
        "only this machine can reach it, and only with the token\n"
        f"page: {address}?token=a-token-of-the-tests\n"
        f"next: curl -H 'Authorization: Bearer a-token-of-the-tests' --data-binary @picture.jpg {address}v1/classify\n"
        "Ctrl-C ends it\n"
    )
    assert said == "interrupted\n"
    assert process.returncode == 130


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_at_once_whatever_is_under_way(tiny: Path, sent: signal.Signals, code: int) -> None:
    words = (str(tiny), "--port", "0", "--source", "synthetic:64x48@30")
    with command(*words) as (process, running):
        link = Socket(running, Authorization=f"Bearer {running.token}")
        wait_until(lambda: link.next()[0]["state"] == "live")
        idle = Socket(running, Authorization=f"Bearer {running.token}")
        process.send_signal(sent)
        out, said = process.communicate(timeout=20)
        link.close()
        idle.close()
    assert process.returncode == code
    assert "Traceback" not in said
    assert out == ""
    with command(str(tiny), "--port", str(running.port)) as (_, again):  # the port is free
        assert again.port == running.port


def test_json_is_data_alone_and_the_token_may_come_from_the_environment(tiny: Path, wide: Path) -> None:
    with command(str(tiny), str(wide), "--port", "0", EDGEWISE_TOKEN="a-token-of-the-tests") as (process, running):
        assert running.token == "a-token-of-the-tests"
        assert [model["name"] for model in running.ask("/v1/model").json()["models"]] == ["tiny", "wide"]
        assert "a-token-of-the-tests" not in Path(f"/proc/{process.pid}/cmdline").read_text()
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert "serving tiny (onnx fp32) and wide (onnx fp32)\n" in said


def test_a_network_is_opened_only_when_told_and_the_risk_is_said(tiny: Path) -> None:
    with command(str(tiny), "--host", "0.0.0.0", "--port", "0", "--name", "board.lan") as (process, running):
        assert listening(process.pid) == {f"00000000:{running.port:04X}"}
        for host, status in (("192.168.1.7:80", 200), ("board.lan", 200), ("localhost", 200), ("evil.example", 403)):
            assert running.ask("/healthz", host=host).status == status
        assert running.ask("/healthz", token="").status == 403
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert "warning: this server is open to the network." in said
    assert "not\n         encrypted" in said


def test_a_browser_is_opened_only_when_asked(tiny: Path, tmp_path: Path) -> None:
    script, told = tmp_path / "browser", tmp_path / "told"
    script.write_text(f'#!/bin/sh\necho "$1" >> "{told}"\n')
    script.chmod(0o755)
    with command(str(tiny), "--port", "0", BROWSER=str(script)) as (_, running):
        assert running.ask("/healthz").status == 200
    assert not told.exists()
    with command(str(tiny), "--port", "0", "--browser", BROWSER=str(script)) as (_, running):
        wait_until(lambda: told.exists() and told.read_text().endswith("\n"))
        assert told.read_text() == f"{running.address}?token={running.token}\n"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("nowhere",), 6, "error[U02]: not an edgewise bundle"),
        (("a", "b", "c"), 2, "error[V04]: 3 bundles"),
        ((), 2, "error[C03]: Missing argument 'BUNDLE [BUNDLE2]'"),
        (("{tiny}", "--token", "short", "--port", "0"), 2, "error[V03]: this token will not do"),
        (("{tiny}", "--host", "192.0.2.1"), 4, "error[V02]: cannot listen there"),
        (("{tiny}", "--source", "usb0", "--port", "0"), 2, 'error[L01]: no source "usb0"'),
        (("{tiny}", "--source", "nowhere.mp4", "--port", "0"), 3, "error[L10]: no such file"),
    ],
)
def test_errors_are_one_message(tiny: Path, words: tuple[str, ...], code: int, told: str) -> None:
    done = edgewise(*(word.format(tiny=tiny) for word in words))
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(told)
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "NEEDED", ("starlette", "a_package_that_is_not_there"))
    with pytest.raises(UnavailableError) as caught:
        serve.check_installed()
    assert (caught.value.code, caught.value.exit_code) == ("V01", 4)
    assert caught.value.why == "missing: a_package_that_is_not_there"
    assert 'pip install "edgewise[serve]"' in caught.value.fix


def test_help_and_usage_errors_load_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['edgewise', 'serve', *{words!r}]\n"
        "from edgewise.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print('LOADED', *sys.modules)"
    )
    for words in (["--help"], ["b", "--prot", "1"]):
        done = subprocess.run(
            [sys.executable, "-c", code.format(words=words)], capture_output=True, text=True, check=True
        )
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
        assert {"numpy", "torch", "starlette", "uvicorn"}.isdisjoint(line.split())


def test_the_server_and_its_page_need_no_torch(tiny: Path) -> None:
    with command(str(tiny), "--port", "0") as (process, running):
        assert running.ask("/healthz").status == 200
        assert "torch" not in Path(f"/proc/{process.pid}/maps").read_text()


def test_json_errors_are_objects() -> None:
    done = edgewise("nowhere", "--json")
    assert json.loads(done.stdout)["error"] == "U02"
