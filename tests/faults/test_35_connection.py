"""Case 35: what goes wrong between us and a device, against a real sshd on the loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgewise.errors import ConfigError, UnavailableError
from edgewise.measure import target
from edgewise.measure.channel import connect
from edgewise.measure.target import Target, parse_target

from .board import Board, fingerprint, free_port, trust


def refused(device: Board) -> UnavailableError:
    """The error of connecting, which must come soon."""
    start = time.monotonic()
    with pytest.raises(UnavailableError) as caught, connect(device.target):
        pass
    assert time.monotonic() - start < 20
    assert caught.value.exit_code == 4
    return caught.value


@pytest.mark.slow
def test_a_device_is_measured_and_nothing_stays_there(
    device: Board, bundle: Path, colours: Path, tmp_path: Path
) -> None:
    words = ["bench", str(bundle), "--device", device.url, "--ssh-config", str(device.config), "--images", str(colours)]
    done = device.run(*words, "--out", str(tmp_path / "out"), "--seconds", "0.2", "--launches", "1", "--json", "-q")
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads(done.stdout)
    assert cell["device"]["where"] == device.url
    assert cell["latency_ms"]["model"]["n"] >= 64
    assert cell["latency_ms"]["e2e"]["n"] >= 64
    assert cell["accuracy"]["n"] == 24
    assert cell["memory"]["peak_rss"] > cell["memory"]["baseline"] > 10e6
    assert json.loads((tmp_path / f"out/cells/{cell['name']}.json").read_text()) == cell
    assert device.left_over() == []
    device.wait_until(lambda: not device.processes())
    assert not (device.home / ".local").exists()


def test_an_unknown_host_key_is_never_accepted(device: Board) -> None:
    device.known_hosts.write_text("")
    problem = refused(device)
    assert problem.code == "E92"
    assert "ssh -F" in problem.fix
    assert "compare the fingerprint" in problem.fix
    assert device.known_hosts.read_text() == ""


def test_a_changed_host_key_is_refused_with_both_fingerprints(device: Board) -> None:
    trust(device, "other")
    before = device.known_hosts.read_text()
    problem = refused(device)
    assert problem.code == "E92"
    assert problem.where["key shown"] == fingerprint(device, "host")
    assert problem.where["key known"].startswith(fingerprint(device, "other"))
    assert f"ssh-keygen -R '[127.0.0.1]:{device.port}'" in problem.fix
    assert device.known_hosts.read_text() == before


def test_a_wrong_key_meets_no_prompt_although_the_server_offers_passwords(device: Board) -> None:
    text = device.config.read_text().replace("keys/user", "keys/other")
    device.config.write_text(text)
    problem = refused(device)
    assert problem.code == "E93"
    assert "publickey,password" in problem.why
    assert "ssh-copy-id" in problem.fix


def test_nobody_listens(device: Board) -> None:
    port = free_port()
    with (
        pytest.raises(UnavailableError, match=r"error\[E91\]: the device cannot be reached") as caught,
        connect(Target("127.0.0.1", device.target.user, port, device.config)),
    ):
        pass
    assert "refused" in caught.value.why
    assert f"-p {port}" in caught.value.fix


def test_a_host_that_never_answers_is_given_up(device: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "CONNECT_S", 1)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        start = time.monotonic()
        with (
            pytest.raises(UnavailableError, match="E91") as caught,
            connect(Target("127.0.0.1", None, deaf.getsockname()[1], device.config)),
        ):
            pass
    assert time.monotonic() - start < 8
    assert "timed out" in caught.value.why


def test_an_unknown_name_is_told(device: Board) -> None:
    with pytest.raises(UnavailableError, match="E91"), connect(Target("no-such-host.invalid", config=device.config)):
        pass


def test_no_ssh_here(device: Board, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refused(device).code == "E90"


def test_noise_of_a_login_is_ignored(device: Board) -> None:
    (device.home / ".bashrc").write_text(
        "echo Welcome to the board\necho '{\"ready\": false}'\necho to the error stream >&2\nprintf 'no end of line'\n"
    )
    with connect(device.target) as channel:
        assert channel.ask("facts")["python"] == sys.version.split()[0]


def test_a_login_that_ends_at_once_is_told_with_its_words(device: Board) -> None:
    (device.home / ".bashrc").write_text("echo this account is closed >&2\nexit 1\n")
    problem = refused(device)
    assert problem.code == "E98"
    assert "this account is closed" in problem.why


def test_a_slow_link_is_waited_for(device: Board) -> None:
    relay = device.folder / "relay.py"
    relay.write_text(
        "import os, select, socket, sys, time\n"
        "peer = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "while True:\n"
        "    for one in select.select([0, peer], [], [])[0]:\n"
        "        data = os.read(0, 2048) if one == 0 else peer.recv(2048)\n"
        "        if not data:\n"
        "            sys.exit()\n"
        "        time.sleep(0.01)\n"
        "        peer.sendall(data) if one == 0 else os.write(1, data)\n"
    )
    device.config.write_text(f"{device.config.read_text()}  ProxyCommand {sys.executable} {relay} %p\n")
    with connect(device.target) as channel:
        channel.put("large", bytes(200_000))
        assert channel.ask("facts")["bits"] == 64
    assert device.left_over() == []


@pytest.mark.parametrize(
    "url",
    [
        "pi@board",
        "http://board",
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://-l@board",
        "ssh://a;b@board",
        "ssh://pi:secret@board",
        "ssh://board:many",
        "ssh://board/path",
        "ssh://bo ard",
    ],
)
def test_an_address_that_is_none_or_would_be_a_flag_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="C96") as caught:
        parse_target(url)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ssh://board", Target("board")),
        ("ssh://pi@192.168.1.20", Target("192.168.1.20", "pi")),
        ("ssh://pi@[fe80::1]:2222/", Target("fe80::1", "pi", 2222)),
    ],
)
def test_an_address_is_read(url: str, expected: Target) -> None:
    assert parse_target(url) == expected
    assert parse_target(expected.url) == expected


def test_ssh_is_told_to_ask_nothing_and_to_accept_nothing() -> None:
    words = Target("board", "pi", 22).words("true")
    for option in ("BatchMode=yes", "ConnectTimeout=10", "StrictHostKeyChecking=yes", "ForwardAgent=no"):
        assert words[words.index(option) - 1] == "-o"
    assert words[-2:] == ["board", "true"]


def test_doctor_looks_at_a_device(device: Board) -> None:
    done = device.run("doctor", "--on", device.url, "--ssh-config", str(device.config), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    names = {check["name"]: check for check in report["checks"]}
    assert {"system", "processor", "python3", "numpy", "onnxruntime", "power sensor"} <= set(names)
    assert names["onnxruntime"]["ok"]
    assert "64-bit" in names["processor"]["detail"]
    assert str(device.temp) in " ".join(names)
    assert device.left_over() == []


def test_the_exit_code_is_four_and_the_message_one(device: Board) -> None:
    device.known_hosts.write_text("")
    done = device.run("doctor", "--on", device.url, "--ssh-config", str(device.config))
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("error[E92]: the host key of the device is not known")
    assert "Traceback" not in done.stderr


def test_the_users_own_ssh_folder_is_not_read(device: Board) -> None:
    command = device.target.words("true")
    assert command[command.index("-F") + 1] == str(device.config)
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
