"""Packing: every byte comes back, few-valued weights are found whatever the exporter did, and sizes are exact."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgewise.bundle import InputSpec
from edgewise.compress import apply_plan
from edgewise.device import RUNTIMES, packed
from edgewise.device.packed import unpack
from edgewise.errors import ExportError
from edgewise.export import FORMATS, ExportSpec
from edgewise.export.onnx import finished, float_file
from edgewise.export.packed import Layer, layers_of, layout, pack
from edgewise.models import Model, create_model
from edgewise.train import logits
from tests.export.holding import model_of


def make(name: str, *plan: str, size: int = 32, channels: int = 3, classes: int = 3) -> Model:
    """A net whose batch norms fold to other factors than 1, with the plan applied and nothing trained."""
    spec = InputSpec(size, size, channels, mean=(0.5,) * channels, std=(0.5,) * channels)  # type: ignore[arg-type]
    model = create_model(name, labels=[f"class {index}" for index in range(classes)], input=spec, seed=0)
    generator = torch.Generator().manual_seed(0)
    for layer in model.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.copy_(torch.randn(layer.num_features, generator=generator) / 5)  # type: ignore[union-attr]
            layer.running_var.copy_(torch.rand(layer.num_features, generator=generator) + 0.3)  # type: ignore[union-attr]
            layer.weight.data.copy_(torch.randn(layer.num_features, generator=generator))
    for one in plan:
        model = apply_plan(model, one, None)  # type: ignore[arg-type]
    return model


def written(model: Model, folder: Path) -> tuple[bytes, bytes]:
    """The ONNX file, with its first layer as it was trained, and the packed one."""
    spec = ExportSpec("fp32", folder / "work")
    FORMATS["packed"].write(model, spec, folder / "model.packed")
    return finished(onnx.load(float_file(model, spec)), model, spec), (folder / "model.packed").read_bytes()


@pytest.mark.parametrize(
    ("plan", "kind", "bits"),
    [
        ("palettize(4, epochs=0)", "grid", 4),
        ("palettize(3, grid=asymmetric, epochs=0)", "grid", 3),
        ("palettize(8, epochs=0)", "grid", 8),
        ("palettize(2, method=kmeans, epochs=0)", "codebook", 2),
        ("palettize(5, method=kmeans, groups=3, epochs=0)", "codebook", 5),
        ("palettize(16)", "halves", 0),
        ("sparsify(0.9, epochs=0)", "floats", 0),
        ("sparsify(0.8, epochs=0) > palettize(4, epochs=0)", "grid", 4),
        ("sparsify(0.8, epochs=0) > palettize(3, method=kmeans, epochs=0)", "codebook", 3),
        ("sparsify(0.8, epochs=0) > palettize(16)", "halves", 0),
    ],
)
def test_every_layer_is_found_behind_its_batch_norm_and_every_byte_comes_back(
    plan: str, kind: str, bits: int, tmp_path: Path
) -> None:
    model = make("convnet(8, 16, 24)", plan, size=16)
    plain, small = written(model, tmp_path)
    assert unpack(small) == plain
    told = layout(small)
    assert len(told["tensors"]) >= 3, "only the 72 weights of the classifier may be too few for a book"
    large = [tensor for tensor in told["tensors"] if tensor["rows"] * tensor["columns"] > 1000]
    assert [(tensor["kind"], tensor["bits"]) for tensor in large] == [(kind, bits)] * 2
    assert (told["file"], told["onnx"]) == (len(small), len(plain))
    assert told["skeleton"] + told["head"] + sum(sum(t["streams"].values()) for t in told["tensors"]) == len(small)
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    scores = RUNTIMES["packed"].load(tmp_path / "model.packed").scores(images)
    assert np.abs(scores - logits(model, images)).max() < 1e-4


def test_system_5_takes_the_bytes_that_can_be_counted_by_hand(tmp_path: Path) -> None:
    """The student of system 5: 16 x 9 + 32 x 144 + 48 x 288 + 128 x 1,728 + 7 x 128 = 240,656 weights in 231 rows."""
    weights = {"block1.conv": 144, "block2.conv": 4_608, "block3.conv": 13_824, "hidden": 221_184, "classifier": 896}
    rows = 16 + 32 + 48 + 128 + 7
    sizes = {}
    for bits in (8, 6, 4):
        plan = f"palettize({bits}, grid=symmetric, epochs=0)"
        model = make("flatnet(16,32,48, hidden=128, dropout=0.3)", plan, size=48, channels=1, classes=7)
        assert {layer.name: layer.weight.size for layer in layers_of(model)} == weights
        _, small = written(model, tmp_path / str(bits))
        told = layout(small)
        assert [tensor["index_bits"] for tensor in told["tensors"]] == [count * bits for count in weights.values()]
        assert sum(tensor["rows"] for tensor in told["tensors"]) == rows
        values = sum(tensor["streams"]["values"] for tensor in told["tensors"])
        assert values <= 240_656 * bits // 8, "never more than a fixed width takes"
        # Besides the indices: two bytes of scale a row, centres that are all alike, a graph of 2 kB and 1,155 floats.
        assert len(small) - values < 2 * rows + 5 * 40 + 4 * 1_155 + 2_000
        sizes[bits] = len(small)
    halves = written(
        make("flatnet(16,32,48, hidden=128)", "palettize(16)", size=48, channels=1, classes=7), tmp_path / "16"
    )[1]
    assert sizes[4] < sizes[6] < sizes[8] < len(halves) < 2 * 240_656 + 8_000


def test_a_small_net_in_4_bits_takes_about_half_of_its_int8_file(tmp_path: Path) -> None:
    model = make("convnet(8, 16, 32)", "palettize(4, epochs=0)", size=28, channels=1, classes=10)
    images = np.random.default_rng(0).integers(0, 256, (16, 28, 28, 1), dtype=np.uint8)
    int8 = tmp_path / "int8.onnx"
    FORMATS["onnx"].write(model, ExportSpec("int8", tmp_path / "int8", "u8s8-rr-qop", images), int8)
    _, small = written(model, tmp_path)
    assert len(small) < 0.53 * int8.stat().st_size
    told = layout(small)
    assert sum(tensor["streams"]["values"] for tensor in told["tensors"]) < 0.7 * len(small), "the graph is the rest"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050", "torchvision/shufflenet_v2_x0_5", "convnextv2_atto", "efficientnet_lite0"]
)
def test_library_nets_are_packed_whole(name: str, tmp_path: Path) -> None:
    model = make(name, "palettize(4, epochs=0)", size=64)
    plain, small = written(model, tmp_path)
    assert unpack(small) == plain
    told = layout(small)
    assert len(told["tensors"]) == len(layers_of(model))
    assert len(small) < 0.25 * len(plain)


@pytest.mark.slow
def test_transposed_weights_of_attention_are_found(tmp_path: Path) -> None:
    """A linear layer over tokens becomes a MatMul whose weights stand the other way round."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(2), nn.Linear(64, 24), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 3, 3))
    model = Model(net.eval(), "made here", InputSpec(8, 8), ("a", "b", "c"))
    model = apply_plan(model, "palettize(3, epochs=0)", None)  # type: ignore[arg-type]
    plain, small = written(model, tmp_path)
    assert unpack(small) == plain
    assert [(tensor["rows"], tensor["kind"]) for tensor in layout(small)["tensors"]] == [(3, "grid"), (24, "grid")]


def test_a_plain_net_stays_literal_and_comes_back(tmp_path: Path) -> None:
    plain, small = written(make("convnet(8, 16)", size=16), tmp_path)
    assert unpack(small) == plain
    assert layout(small)["tensors"] == []
    assert len(small) < len(plain)


def test_weights_that_were_moved_off_their_levels_are_stored_as_they_are(tmp_path: Path) -> None:
    model = make("convnet(8, 16)", "palettize(3, method=kmeans, epochs=0)", size=16)
    with torch.no_grad():
        model.module.get_submodule("block1.conv").weight += 1e-3 * torch.randn(8, 3, 3, 3)  # type: ignore[operator]
        model.module.get_submodule("block2.conv").weight[0, 0, 0, 0] += 1e-3  # type: ignore[index, operator]
    plain, small = written(model, tmp_path)
    assert unpack(small) == plain
    kinds = [(tensor["rows"], tensor["columns"], tensor["bits"]) for tensor in layout(small)["tensors"]]
    assert (8, 27) not in [kind[:2] for kind in kinds]
    assert (16, 72, 4) in kinds, "nine values that no record tells of are found by themselves"


# --- Round trips of anything -------------------------------------------------------------------------------------


@st.composite
def tensors(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Weights of some form, and what an exporter may have made of them."""
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kinds: dict[str, Callable[[], Any]] = {
        "few": lambda: random.choice(random.normal(size=draw(st.integers(1, 40))), (rows, columns)),
        "any": lambda: random.normal(size=(rows, columns)),
        "halves": lambda: random.normal(size=(rows, columns)).astype(np.float16),
        "zeros": lambda: np.zeros((rows, columns)),
        "strange": lambda: random.choice([np.inf, -0.0, 0.0, 1e-42, 3e38, -1], (rows, columns)),
    }
    weight = np.asarray(kinds[draw(st.sampled_from(sorted(kinds)))](), np.float32)
    weight = np.where(random.random(weight.shape) < draw(st.sampled_from([0, 0.5, 0.95, 0.999])), np.float32(0), weight)
    factors = (
        random.normal(size=(rows, 1)).astype(np.float32) if draw(st.booleans()) else np.ones((rows, 1), np.float32)
    )
    with np.errstate(all="ignore"):
        product = weight * factors
    return weight, product.T.copy() if draw(st.booleans()) else product


@settings(max_examples=80, deadline=None)
@given(st.lists(tensors(), min_size=1, max_size=4))
def test_whatever_is_packed_comes_back(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    model = model_of({f"t{number}": product for number, (_, product) in enumerate(pairs)})
    layers = [Layer(str(number), weight) for number, (weight, _) in enumerate(pairs)]
    small = pack(model, layers)
    assert unpack(small) == model
    assert len(small) <= len(model) + 64


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(300, 900), st.integers(0, 2**32 - 1))
def test_indices_take_their_bits_and_no_more(bits: int, columns: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    book = random.normal(size=2**bits).astype(np.float32)
    weight = book[np.concatenate([np.arange(2**bits), random.integers(0, 2**bits, 3 * columns - 2**bits)])].reshape(
        3, -1
    )
    (tensor,) = layout(pack(model_of({"w": weight}), [Layer("w", weight)]))["tensors"]
    assert (tensor["kind"], tensor["bits"], tensor["entries"]) == ("codebook", bits, 2**bits)
    assert tensor["index_bits"] == 3 * columns * bits
    floor = 0.9 * 3 * columns * bits / 8 - 2**bits  # what is drawn evenly cannot be squeezed much
    assert floor <= tensor["streams"]["values"] <= -(-3 * columns * bits // 8)


def test_equal_tensors_are_told_apart(tmp_path: Path) -> None:
    """Two layers with the same weights: the same bytes stand twice in the file, and each is cut out once."""
    weight = np.random.default_rng(0).choice([-1.0, 0.5, 2], (8, 64)).astype(np.float32)
    model = model_of({"a": weight, "b": weight, "c": weight[:4].copy()})
    small = pack(model, [Layer("a", weight), Layer("b", weight), Layer("c", weight[:4].copy())])
    assert unpack(small) == model
    assert len(layout(small)["tensors"]) == 3


def test_a_model_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewise.export.packed.PACKED_LIMIT", 100)
    with pytest.raises(ExportError, match="too large") as caught:
        pack(b"x" * 100, [])
    assert caught.value.code == "X35"


def test_a_packer_that_loses_a_byte_is_caught_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deflate = zlib.compressobj

    class Lossy:
        def __init__(self, *settings: int) -> None:
            self.inner = deflate(*settings)

        def compress(self, data: bytes) -> bytes:
            return self.inner.compress(data[:-1] + b"?" if data else data)

        def flush(self) -> bytes:
            return self.inner.flush()

    monkeypatch.setattr("edgewise.export.packed.zlib.compressobj", Lossy)
    with pytest.raises(ExportError, match="does not give back") as caught:
        written(make("convnet(8, 16)", "palettize(4, epochs=0)", size=16), tmp_path)
    assert caught.value.code == "X36"
    assert not (tmp_path / "model.packed").exists()


def test_the_names_of_kinds_are_those_of_the_format() -> None:
    assert (packed.FLOATS, packed.HALVES, packed.GRID, packed.CODEBOOK) == (0, 1, 2, 3)
