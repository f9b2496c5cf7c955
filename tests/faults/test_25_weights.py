"""Fault 25: a weights file that is truncated, empty, foreign, lying or hostile is refused, and runs nothing."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from edgewise import cli
from edgewise.bundle import InputSpec
from edgewise.errors import UntrustedError
from edgewise.models import Model, create_model
from edgewise.models.weights import load_weights


def make() -> Model:
    return create_model("convnet(4, 8)", labels=("a", "b"), input=InputSpec(16, 16))


STATE = make().module.state_dict()


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (Path.touch, (self.canary,))


def refused(path: Path, why: str) -> None:
    model = make()
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    with pytest.raises(UntrustedError) as caught:
        load_weights(model, path)
    assert (caught.value.code, caught.value.exit_code) == ("U30", 6)
    assert why in caught.value.why
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())


def plain_pickle(value: Any) -> bytes:
    return pickle.dumps(value)


def torch_zip(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def torch_legacy(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


@pytest.mark.parametrize("write", [plain_pickle, torch_zip, torch_legacy])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights"])
def test_a_payload_never_runs(write: Any, name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    data = write({"state_dict": dict(STATE), "callback": Payload(canary)})
    (tmp_path / name).write_bytes(data)
    refused(tmp_path / name, "")
    assert not canary.exists()


def test_the_payload_would_have_run(tmp_path: Path) -> None:
    pickle.loads(plain_pickle(Payload(tmp_path / "canary")))  # noqa: S301 - the proof that the trap works
    assert (tmp_path / "canary").exists()


def test_the_command_ends_with_exit_code_6_and_makes_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    canary, path = tmp_path / "canary", tmp_path / "weights.pth"
    path.write_bytes(torch_zip({"state_dict": dict(STATE), "callback": Payload(canary)}))
    words = ["train", "digits", "--model", "convnet(4, 8)", "--weights", str(path), "--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", ["edgewise", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 6
    assert "error[U30]: this weights file is refused" in capsys.readouterr().err
    assert not canary.exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("write", [torch_zip, torch_legacy, safetensors.torch.save])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.97])
def test_a_truncated_file(write: Any, keep: float, tmp_path: Path) -> None:
    data = write(dict(STATE))
    path = tmp_path / ("w.safetensors" if write is safetensors.torch.save else "w.pth")
    path.write_bytes(data[: int(len(data) * keep)])
    refused(path, "" if keep else "header too small" if path.suffix == ".safetensors" else "0 bytes")


def test_safetensors_with_appended_bytes(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors.torch.save(dict(STATE)) + b"\0")
    refused(path, "not fully covered")


def lying(change: Any) -> bytes:
    """A safetensors file with a changed header and the same values behind it."""
    data = safetensors.torch.save(dict(STATE))
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["classifier.bias"].update(shape=[10**12]),
        lambda header: header["classifier.bias"].update(shape=[4]),
        lambda header: header["classifier.bias"].update(dtype="F64"),
        lambda header: header["classifier.bias"].update(dtype="F31"),
        lambda header: header["classifier.bias"].update(data_offsets=[0, 10**15]),
        lambda header: header["classifier.bias"].update(data_offsets=[0, 8]),
        lambda header: header["classifier.bias"].update(data_offsets=[8, 0]),
        lambda header: header.pop("classifier.bias"),
        lambda header: header.update(more=[]),
    ],
)
def test_a_lying_header(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(lying(change))
    refused(path, "")


@pytest.mark.parametrize("length", [0, 2**40, 2**63, 2**64 - 1])
def test_a_header_of_a_length_that_cannot_be(length: int, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", length) + safetensors.torch.save(dict(STATE))[8:])
    refused(path, "header")


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n" + bytes(100), b"hello", bytes(1000), b"PK\x03\x04", b"\x80"])
def test_something_else(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(data)
    refused(tmp_path / "w.pth", "")


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("../../escaped", "x")
    refused(tmp_path / "w.pth", "")
    assert not (tmp_path.parent.parent / "escaped").exists()


@pytest.mark.parametrize("value", [[1, 2], {"epoch": 3}, torch.zeros(3), {"state_dict": {}}, "text"])
def test_a_file_without_a_dict_of_tensors(value: Any, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "holds no dict of tensors")


def test_a_whole_pickled_module(tmp_path: Path) -> None:
    torch.save(make().module, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "")


def test_dicts_nested_without_end(tmp_path: Path) -> None:
    value: Any = dict(STATE)
    for _ in range(50):
        value = {"model": value}
    torch.save(value, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "holds no dict of tensors")


def test_a_small_file_that_claims_a_huge_tensor_is_not_copied(tmp_path: Path) -> None:
    """A tensor of 2^40 elements over one stored number: its shape does not fit, and nothing is allocated."""
    state = dict(STATE)
    state["block1.conv.weight"] = torch.zeros(1).expand(2**40)
    torch.save(state, tmp_path / "w.pth")
    model = make()
    assert load_weights(model, tmp_path / "w.pth").fresh == ("block1.conv.weight",)
