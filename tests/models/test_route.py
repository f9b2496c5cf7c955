"""Pretrained weights without a network: told within seconds, and never when there is one."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from edgewise.bundle import InputSpec
from edgewise.errors import UnavailableError
from edgewise.models import create_model, route

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[str]:
    """An address on this machine that answers HEAD with 404."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as served:
        served.RequestHandlerClass.log_message = lambda *_: None  # type: ignore[method-assign, assignment]
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()


@pytest.fixture
def silent() -> Iterator[str]:
    """An address on this machine that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def refused_in(url: str) -> tuple[float, str]:
    started = time.perf_counter()
    with pytest.raises(UnavailableError, match="cannot be fetched") as caught:
        route.require(url, "timm/x")
    assert (caught.value.code, caught.value.exit_code, caught.value.where) == ("E20", 4, {"model": "timm/x"})
    return time.perf_counter() - started, caught.value.why


def test_any_answer_is_a_route(server: str) -> None:
    assert route.require(server, "timm/x") is None  # type: ignore[func-returns-value]


def test_a_closed_port_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    seconds, why = refused_in(f"http://127.0.0.1:{port}")
    assert seconds < route.PATIENCE_S
    assert "Connection refused" in why


def test_an_address_that_stays_silent_is_told_in_time(silent: str) -> None:
    seconds, why = refused_in(silent)
    assert seconds < route.PATIENCE_S + 1
    assert "no answer within 3 s" in why or "timed out" in why


def test_a_name_that_cannot_be_looked_up_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    asleep = threading.Event()

    def slow_lookup(*_: object, **__: object) -> None:
        asleep.wait(30)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", slow_lookup)
    seconds, why = refused_in("https://weights.example")
    asleep.set()
    assert seconds < route.PATIENCE_S + 1
    assert why == "https://weights.example: no answer within 3 s"


def test_a_proxy_of_the_environment_is_the_way_out(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server)
    assert route.require("http://weights.invalid/x", "timm/x") is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize("architecture", ["mobilenetv3_small_050", "torchvision/shufflenet_v2_x0_5"])
def test_a_pretrained_model_without_a_route_is_told_before_its_library_tries(
    architecture: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_lookup(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    make(architecture, pretrained=False)  # imports the library, which takes longer than the answer
    monkeypatch.setattr(socket, "getaddrinfo", no_lookup)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    started = time.perf_counter()
    with pytest.raises(UnavailableError, match="cannot be fetched") as caught:
        make(architecture, pretrained=True)
    assert time.perf_counter() - started < 2
    assert "Name or service not known" in caught.value.why
    assert "--weights" in caught.value.fix


def test_weights_that_huggingface_keeps_need_no_route(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache laid out as huggingface_hub does it, and no network at all."""
    name = "mobilenetv3_small_050"
    repository = timm.get_pretrained_cfg(name).hf_hub_id
    folder = tmp_path / f"models--{repository.replace('/', '--')}"
    state = timm.create_model(name, num_classes=1000).state_dict()
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    safetensors.torch.save_file(state, folder / "snapshots" / "abc" / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket, "create_connection", no_network)
    loaded = make(name, pretrained=True)
    assert all(torch.equal(loaded[key], state[key]) for key in state if "classifier" not in key)
    assert loaded["classifier.weight"].shape[0] == 2


def make(architecture: str, *, pretrained: bool) -> dict[str, torch.Tensor]:
    spec = InputSpec(64, 64)
    model = create_model(architecture, labels=("a", "b"), input=spec, pretrained=pretrained)
    state: dict[str, torch.Tensor] = model.module.state_dict()
    return state
