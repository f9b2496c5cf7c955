"""Model folders: identical outputs after reopening, and refusal of anything damaged or foreign."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.bundle import InputSpec
from edgewise.compress.prune import PruneOptions, remove_channels
from edgewise.errors import UntrustedError
from edgewise.models import Model, create_model, open_model, save_model
from edgewise.models.surgery import truncate_model

SPEC = InputSpec(32, 24, fit="pad", interpolation="bicubic", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
LABELS = ("=cmd", "naïve", "日本")


def make(architecture: str, **options: Any) -> Model:
    model = create_model(architecture, labels=LABELS, input=SPEC, **options)
    with torch.no_grad():
        model.module.train()(torch.randn(4, 3, 32, 24))  # moves the batch norm statistics and counters
    model.module.eval()
    return model


def assert_same(model: Model, again: Model) -> None:
    images = torch.randn(3, 3, 32, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model.module(images), again.module(images))
    assert not any(part.training for part in again.module.modules())
    facts, facts_again = (
        (each.architecture, each.input, each.labels, each.structure, list(each.module.state_dict()))
        for each in (model, again)
    )
    assert facts == facts_again


def plain(architecture: str) -> Callable[[], Model]:
    return lambda: make(architecture)


MODELS: dict[str, Callable[[], Model]] = {
    "convnet": plain("convnet(4, 8, dropout=0.2)"),
    "flatnet": plain("flatnet(4, 8)"),
    "dscnn": plain("dscnn(4, 8, 8)"),
    "timm": plain("mobilenetv3_small_050"),
    "torchvision": plain("shufflenet_v2_x0_5"),
    "truncated by name": plain("truncate(shufflenet_v2_x0_5, stage3)"),
    "truncated": lambda: truncate_model(make("torchvision/resnet18"), "layer2"),
    "pruned convnet": lambda: remove_channels(make("convnet(4, 8)"), PruneOptions(ratio=0.5)),
    "pruned dscnn": lambda: remove_channels(make("dscnn(4, 8, 8)"), PruneOptions(ratio=0.3)),
    "pruned flatnet": lambda: remove_channels(make("flatnet(4, 8, hidden=10)"), PruneOptions(ratio=0.3)),
    "pruned mobilenet": lambda: remove_channels(make("mobilenetv3_small_050"), PruneOptions(ratio=0.5)),
    "pruned shufflenet": lambda: remove_channels(make("shufflenet_v2_x0_5"), PruneOptions(ratio=0.5)),
    "truncated then pruned": lambda: remove_channels(
        truncate_model(make("mobilenetv2_050"), "blocks.3"), PruneOptions(ratio=0.4)
    ),
    "pruned then truncated": lambda: truncate_model(
        remove_channels(make("resnet18"), PruneOptions(ratio=0.4)), "layer2"
    ),
    "pruned twice": lambda: remove_channels(
        remove_channels(make("convnet(8, 8)"), PruneOptions(ratio=0.5)), PruneOptions(ratio=0.5)
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_reopened_model_is_the_same(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind]()
    save_model(model, tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
        "structure.json",
    ]
    assert_same(model, open_model(tmp_path / "model"))


@settings(max_examples=25, deadline=None)
@given(
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    dropout=st.sampled_from([0.0, 0.1, 0.25]),
    ratio=st.floats(0.1, 0.95),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_widths_come_back(widths: list[int], dropout: float, ratio: float, seed: int) -> None:
    architecture = f"convnet({', '.join(map(str, widths))}, dropout={dropout})"
    model = make(architecture, seed=seed)
    if max(widths) > 1:
        model = remove_channels(model, PruneOptions(ratio=ratio))
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder) / "model")
        assert_same(model, open_model(Path(folder) / "model"))


def test_the_config_has_the_keys_of_timm(tmp_path: Path) -> None:
    save_model(make("convnet(4)"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["architecture"] == "convnet(4)"
    assert (config["num_classes"], config["input_size"], config["label_names"]) == (3, [3, 32, 24], list(LABELS))
    assert (config["mean"], config["std"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert (config["interpolation"], config["fit"]) == ("bicubic", "pad")
    weights = (tmp_path / "model.safetensors").read_bytes()
    assert config["sha256"]["model.safetensors"] == hashlib.sha256(weights).hexdigest()


def test_saving_again_replaces_the_model(tmp_path: Path) -> None:
    save_model(make("convnet(4)"), tmp_path)
    other = make("convnet(6, 3)", seed=2)
    save_model(other, tmp_path)
    assert_same(other, open_model(tmp_path))


def test_a_crash_between_two_files_leaves_a_refused_folder_not_a_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgewise.models import store

    save_model(make("convnet(4)", seed=1), tmp_path)

    def crash(path: Path, value: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(store, "write_json", crash)
    with pytest.raises(OSError, match="disk full"):
        save_model(make("convnet(4)", seed=2), tmp_path)
    with pytest.raises(UntrustedError, match="not as it was written"):
        open_model(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(remove_channels(make("convnet(4, 8)"), PruneOptions(ratio=0.5)), tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    change(config)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Change a file as a forger would: its hash is put right."""
    (folder / name).write_bytes(data)
    edit_config(folder, lambda config: config["sha256"].update({name: hashlib.sha256(data).hexdigest()}))


def refused(folder: Path, code: str, told: str) -> None:
    with pytest.raises(UntrustedError) as caught:
        open_model(folder)
    assert (caught.value.code, caught.value.exit_code) == (code, 6)
    assert told in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "structure.json"])
def test_a_flipped_bit_is_refused(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    refused(folder, "U11", name)


@pytest.mark.parametrize("name", ["model.safetensors", "structure.json"])
@pytest.mark.parametrize("length", [0, 7, -1])
def test_a_truncated_file_is_refused(folder: Path, name: str, length: int) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:length])
    refused(folder, "U11", "sha256 is not the one")


@pytest.mark.parametrize("name", ["model.safetensors", "structure.json"])
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, "U11", "No such file")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda config: config.update(extra=1), "extra"),
        (lambda config: config.pop("mean"), "mean"),
        (lambda config: config.update(format_version=2), "format_version"),
        (lambda config: config.update(num_classes=4), "4 classes but 3 label names"),
        (lambda config: config.update(mean=[0.5]), "mean and std need 3 values"),
        (lambda config: config.update(input_size=[4, 32, 24]), "input_size"),
        (lambda config: config["sha256"].pop("structure.json"), "sha256 names"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    edit_config(folder, change)
    refused(folder, "U10", told)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"architecture": NaN}'])
def test_a_config_that_is_no_object_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="utf-8")
    refused(folder, "U10", "config.json")


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "U10", "give the folder that holds config.json")


@pytest.mark.parametrize(
    ("structure", "told"),
    [
        (b"{", "recorded structure cannot be read"),
        (b'{"edit": "resize"}', "not a list of edits"),
        (b"[1]", "not a list of edits"),
        (b'[{"edit": "import_os"}]', "unknown edit 'import_os'"),
        (b'[{"edit": "resize", "layers": {"nowhere": {}}}]', 'no layer "nowhere"'),
        (b'[{"edit": "truncate", "after": "nope", "input": [3, 32, 24], "classes": 3}]', 'no part "nope"'),
    ],
)
def test_a_forged_structure_is_refused(folder: Path, structure: bytes, told: str) -> None:
    replace_file(folder, "structure.json", structure)
    refused(folder, "U12", told)


def test_an_architecture_that_cannot_be_built_is_refused(folder: Path) -> None:
    edit_config(folder, lambda config: config.update(architecture="resnet_of_tomorrow"))
    refused(folder, "U12", "unknown model")


def test_weights_of_another_shape_are_refused_by_name(folder: Path) -> None:
    edit_config(folder, lambda config: config.update(architecture="convnet(4, 9)"))
    edit = json.loads((folder / "structure.json").read_text(encoding="utf-8"))
    edit[0]["layers"]["block2.conv"]["out_channels"] = 5
    edit[0]["layers"]["block2.norm"]["num_features"] = 5
    edit[0]["layers"]["classifier"]["in_features"] = 5
    replace_file(folder, "structure.json", json.dumps(edit).encode())
    refused(
        folder, "U13", "block2.conv.weight: float32 [4, 2, 3, 3] in the file, float32 [5, 2, 3, 3] in the structure"
    )


def test_missing_further_and_differently_typed_tensors_are_named(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors["more"] = torch.zeros(1)
    del tensors["classifier.bias"]
    tensors["block1.conv.bias"] = tensors["block1.conv.bias"].half()
    replace_file(folder, "model.safetensors", safetensors.torch.save(tensors))
    for told in ("more: not part", "classifier.bias: missing", "block1.conv.bias: float16 [2] in the file"):
        refused(folder, "U13", told)


class _Trap:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("trap-was-sprung"),))


def test_a_pickle_is_refused_and_never_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"classifier.bias": _Trap()}, tmp_path / "payload")
    replace_file(folder, "model.safetensors", (tmp_path / "payload").read_bytes())
    refused(folder, "U13", "weights do not fit")
    assert not (tmp_path / "trap-was-sprung").exists()
