"""int8 without training: exact changes of the graph, measured means, methods and layers chosen on validation images."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edgewise.bundle import InputSpec
from edgewise.compress.ranges import METHODS, Seen
from edgewise.data import Dataset
from edgewise.device import RUNTIMES
from edgewise.errors import ExportError
from edgewise.export import FORMATS, ExportSpec, deliver, ptq
from edgewise.export.base import Ptq
from edgewise.export.calibrate import some_of, values_in
from edgewise.export.desk import Desk, Order
from edgewise.export.equalize import Pair, correct_biases, equalize, rounded
from edgewise.export.onnx import float_file, prepared_file
from edgewise.models import Model
from edgewise.progress import Silent
from edgewise.recipe import ExportOptions
from edgewise.train import logits
from tests.train.conftest import CLASSES, SPEC

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 12, 12, 1), dtype=np.uint8)


def by_hand(*layers: nn.Module, spec: InputSpec = SPEC) -> Model:
    """A model of these layers with scales that differ a thousandfold between channels."""
    torch.manual_seed(0)
    net = nn.Sequential(*layers)
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.mul_(
                    torch.logspace(-1.5, 1.5, len(layer.weight)).view(-1, *[1] * (layer.weight.dim() - 1))
                )
    width = net(torch.zeros(1, *(spec.channels, spec.height, spec.width))).shape[1]
    return Model(net.eval(), "by hand", spec, tuple(f"c{index}" for index in range(width)))


def desk_of(model: Model, dataset: Dataset, folder: Path, **options: Any) -> Desk:
    order = Order("m", model, ("fp32", "int8"), folder / "bundles", folder / "work", {})
    return Desk(order, "onnx", dataset, ExportOptions(**options), 0)


def prepared(model: Model, folder: Path) -> onnx.ModelProto:
    return onnx.load(prepared_file(model, ExportSpec("int8", folder / "work", "u8s8-rr", IMAGES)))


def run(proto: onnx.ModelProto, images: np.ndarray = IMAGES) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    answer: np.ndarray = session.run(None, {"image": images})[0]
    return answer


def kernels(proto: onnx.ModelProto) -> list[np.ndarray]:
    """The weights of the convolutions, in the order they run."""
    values = {one.name: numpy_helper.to_array(one).copy() for one in proto.graph.initializer}
    return [values[node.input[1]] for node in proto.graph.node if node.op_type == "Conv"]


def flat() -> list[nn.Module]:
    return [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(150, 8), nn.ReLU(), nn.Linear(8, 3)]


def separable() -> list[nn.Module]:
    depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    pooled: list[nn.Module] = [nn.AvgPool2d(2), nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return [nn.Conv2d(1, 6, 3), nn.ReLU(), depthwise, nn.LeakyReLU(0.1), *pooled, nn.Linear(4, 3)]


# --- Equalisation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "pairs"), [(flat, 2), (separable, 3)])
def test_equalising_changes_no_answer_and_evens_out_the_channels(
    layers: Callable[[], list[nn.Module]], pairs: int, tmp_path: Path
) -> None:
    proto = prepared(by_hand(*layers()), tmp_path)
    before = run(proto)
    weights = {one.name: numpy_helper.to_array(one).copy() for one in proto.graph.initializer}
    found, _ = equalize(proto)
    assert len(found) == pairs
    after = run(proto)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())
    moved = [
        one for one in proto.graph.initializer if not np.array_equal(numpy_helper.to_array(one), weights[one.name])
    ]
    assert len(moved) > pairs
    nodes = {node.name: node for node in proto.graph.node}
    first = numpy_helper.to_array(
        next(one for one in proto.graph.initializer if one.name == nodes[found[0].first].input[1])
    )
    own = weights[nodes[found[0].first].input[1]]
    spread = [np.ptp(np.log(np.abs(rows.reshape(len(rows), -1)).max(1))) for rows in (own, first)]
    assert spread[1] < 0.9 * spread[0]


def test_after_equalising_a_channel_is_as_large_on_both_sides(tmp_path: Path) -> None:
    """r1 = r2 = sqrt(r1 r2): equation 11 of the paper, for the one pair of a net."""
    proto = prepared(by_hand(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Conv2d(5, 3, 10), nn.Flatten()), tmp_path)
    before = kernels(proto)
    expected = np.sqrt(np.abs(before[0]).max((1, 2, 3)) * np.abs(before[1]).max((0, 2, 3)))
    assert [len(part) for part in equalize(proto)] == [1, 1]
    first, second = kernels(proto)
    np.testing.assert_allclose(np.abs(first).max((1, 2, 3)), expected, rtol=1e-3)
    np.testing.assert_allclose(np.abs(second).max((0, 2, 3)), expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("between", "why"),
    [(nn.Hardswish(), "HardSigmoid|HardSwish|more than once"), (nn.ReLU6(), "Clip"), (nn.Sigmoid(), "Sigmoid")],
)
def test_where_it_would_not_be_exact_it_is_left_and_said(between: nn.Module, why: str, tmp_path: Path) -> None:
    proto = prepared(by_hand(nn.Conv2d(1, 5, 3), between, nn.Conv2d(5, 3, 10), nn.Flatten()), tmp_path)
    before = proto.SerializeToString()
    pairs, reasons = equalize(proto)
    assert pairs == []
    assert proto.SerializeToString() == before
    assert any(re.search(why, reason) for reason in reasons.values())


def test_layers_whose_output_is_read_twice_are_left(tmp_path: Path) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 10)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            stem = self.stem(image)
            out: torch.Tensor = self.head(torch.relu(stem + self.conv(stem))).flatten(1)
            return out

    model = Model(Residual().eval(), "residual", SPEC, CLASSES)
    pairs, reasons = equalize(prepared(model, tmp_path))
    assert pairs == []
    assert {"its output is read more than once", "Add follows"} <= set(reasons.values())


# --- Bias correction ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduced", [True, False])
def test_corrected_biases_give_the_mean_that_float_weights_give(reduced: bool, tmp_path: Path) -> None:
    """For each channel, on the images that set the means; exact where no zeros are padded."""
    spec = InputSpec(2, 2)
    images = np.random.default_rng(0).integers(0, 256, (40, 2, 2, 3), dtype=np.uint8)
    proto = prepared(by_hand(nn.Conv2d(3, 6, 1, bias=False), nn.Flatten(), spec=spec), tmp_path)
    seen = values_in(proto.SerializeToString(), images)
    before = run(proto, images).reshape(40, 6, 4).mean((0, 2))
    (name,) = (node.input[1] for node in proto.graph.node if node.op_type == "Conv")
    whole = rounded(kernels(proto)[0], reduced=reduced).astype(np.float32)
    after = []
    for correct in (False, True):
        graph = onnx.ModelProto.FromString(proto.SerializeToString())
        if correct:
            assert len(correct_biases(graph, seen, reduced=reduced)) == 1
        weight = next(one for one in graph.graph.initializer if one.name == name)
        weight.CopyFrom(numpy_helper.from_array(whole, name))
        after.append(run(graph, images).reshape(40, 6, 4).mean((0, 2)))
    np.testing.assert_allclose(after[1], before, atol=1e-5 * np.abs(before).max())
    assert np.abs(after[0] - before).max() > 1e-4 * np.abs(before).max()


def test_biases_of_grouped_layers_are_corrected_by_the_means_of_their_group(tmp_path: Path) -> None:
    model = by_hand(nn.Conv2d(1, 4, 12), nn.ReLU(), nn.Conv2d(4, 6, 1, groups=2), nn.Flatten())
    proto = prepared(model, tmp_path)
    seen = values_in(proto.SerializeToString(), IMAGES)
    before = {one.name: numpy_helper.to_array(one).copy() for one in proto.graph.initializer}
    node = [one for one in proto.graph.node if one.op_type == "Conv"][1]
    error = rounded(before[node.input[1]], reduced=True) - before[node.input[1]]
    correct_biases(proto, seen, reduced=True)
    moved = next(numpy_helper.to_array(one) for one in proto.graph.initializer if one.name == node.input[2])
    fed = dataclasses.replace(model, module=nn.Sequential(*list(model.module.children())[:2], nn.Flatten()))
    inputs = torch.from_numpy(logits(fed, IMAGES)).view(-1, 4, 1, 1)
    shift = nn.functional.conv2d(inputs, torch.from_numpy(error.astype(np.float32)), groups=2).mean((0, 2, 3))
    np.testing.assert_allclose(before[node.input[2]] - moved, shift.numpy(), rtol=1e-3, atol=1e-6)


def test_rounded_weights_are_those_of_the_file(trained: Model, dataset: Dataset, tmp_path: Path) -> None:
    for scheme, reduced in (("u8s8", False), ("u8s8-rr", True)):
        path = tmp_path / f"{scheme}.onnx"
        FORMATS["onnx"].write(trained, ExportSpec("int8", tmp_path / "work", scheme, dataset.train.images), path)
        values = [numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
        source = onnx.load(tmp_path / "work" / "prepared.onnx").graph.initializer
        for rows in (numpy_helper.to_array(one) for one in source if len(one.dims) == 4 and np.prod(one.dims) > 4):
            steps = np.abs(rows).max((1, 2, 3), keepdims=True) / (64 if reduced else 127)
            whole = np.rint(rounded(rows, reduced=reduced) / steps)
            found = [value for value in values if value.shape == whole.shape and value.dtype == np.int8]
            assert any(np.abs(value - whole).max() <= 1 and (value != whole).mean() < 0.01 for value in found)


# --- Calibration -------------------------------------------------------------------------------------------------


def test_calibration_sees_every_float_tensor_of_the_graph(trained: Model, dataset: Dataset, tmp_path: Path) -> None:
    graph = float_file(trained, ExportSpec("fp32", tmp_path)).read_bytes()
    seen = values_in(graph, dataset.train.images[:40])
    answers = logits(trained, dataset.train.images[:40])
    last = seen["logits"]
    assert last.low == pytest.approx(min(0, answers.min()), rel=1e-5)
    assert last.high == pytest.approx(answers.max(), rel=1e-5)
    np.testing.assert_allclose(last.means, answers.mean(0), rtol=1e-4, atol=1e-5)
    assert len(seen) > 8


def test_some_images_are_spread_over_all() -> None:
    assert len(some_of(IMAGES, 0)) == len(some_of(IMAGES, 100)) == 24
    np.testing.assert_array_equal(some_of(IMAGES, 2), IMAGES[[0, -1]])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scheme", ["u8s8-rr", "s8s8-qop"])
def test_every_method_gives_a_file_that_decides_like_the_model(
    method: str, scheme: str, trained: Model, dataset: Dataset, tmp_path: Path
) -> None:
    desk = desk_of(trained, dataset, tmp_path)
    assert ptq.distance(desk, scheme, Ptq(method)) < 0.02
    assert ptq.distance(desk, scheme, Ptq(method, equalize=True, correct=True)) < 0.05


def test_one_calibration_serves_all_methods_and_schemes(
    trained: Model, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgewise.export import calibrate

    taken = []
    original = calibrate.values_in
    monkeypatch.setattr(calibrate, "values_in", lambda *given: taken.append(len(given[1])) or original(*given))
    desk = desk_of(trained, dataset, tmp_path, calibration_images=60, calibration_sizes=(20, 500))
    chosen = ptq.first_choice(desk, "u8s8-rr")
    for scheme in ("u8s8", "s8s8", "u8s8-qop"):
        desk.write("int8", scheme, chosen)
    assert taken == [60, 20, 60]  # of the graph, of fewer images, of the equalized graph


def test_int8_without_images_is_refused(trained: Model, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="X02"):
        FORMATS["onnx"].write(trained, ExportSpec("int8", tmp_path, "u8s8"), tmp_path / "f.onnx")


@pytest.mark.parametrize("scheme", ["u8s8-rr", "u8s8-rr-qop"])
def test_logits_are_not_rounded_to_eight_bits(scheme: str, trained: Model, dataset: Dataset, tmp_path: Path) -> None:
    desk = desk_of(trained, dataset, tmp_path)
    fine, coarse = (desk.scores(desk.write("int8", scheme, Ptq(logits=flag)), "parity") for flag in (False, True))
    steps = np.unique(np.round(np.diff(np.unique(coarse)), 4))
    assert len(np.unique(coarse)) < 200
    assert len(np.unique(fine)) > 300
    assert np.abs(fine - coarse).max() < 2 * steps.max() + 0.1
    last = onnx.load(desk.write("int8", scheme, Ptq())).graph.node[-1]
    assert last.op_type in {"QGemm", "Gemm"}


# --- What is chosen ----------------------------------------------------------------------------------------------


def test_the_divergence_is_zero_for_equal_answers_and_that_of_torch() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, 50, 4)).astype(np.float32)
    expected = nn.functional.kl_div(
        torch.from_numpy(second).log_softmax(1),
        torch.from_numpy(first).log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )
    assert ptq.divergence(first, second) == pytest.approx(float(expected), rel=1e-5)
    assert ptq.divergence(first, first + 3) == pytest.approx(0, abs=1e-6)


def test_methods_are_compared_and_an_outlier_is_cut(
    trained: Model, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors that once took a value fifty times as large as ever: smallest to largest leaves them few steps."""
    from edgewise.export import calibrate

    original = calibrate.values_in

    def with_outlier(graph: bytes, images: np.ndarray) -> dict[str, Seen]:
        seen = original(graph, images)
        return {
            name: dataclasses.replace(
                one, high=one.high * 50, counts=np.concatenate([one.counts.reshape(-1, 64).sum(1)[:32], np.zeros(2016)])
            )
            if name != "logits" and one.high > 0 and one.low == 0
            else one
            for name, one in seen.items()
        }

    monkeypatch.setattr(calibrate, "values_in", with_outlier)
    desk = desk_of(trained, dataset, tmp_path)
    chosen = ptq.first_choice(desk, "u8s8-rr")
    assert chosen.method != "minmax"
    assert ptq.distance(desk, "u8s8-rr", chosen) < 0.9 * ptq.distance(desk, "u8s8-rr", Ptq("minmax"))
    fixed = desk_of(trained, dataset, tmp_path / "f", int8_method="minmax", int8_equalize=True, int8_correct=False)
    assert ptq.first_choice(fixed, "u8s8-rr") == Ptq("minmax", equalize=True)


def crushed(model: Model, layer: str) -> Model:
    """A net with a layer that int8 cannot store: weights of 3,000 for a channel that is always 0 leave the others no
    steps."""
    made = model.copy()
    part: Any = made.module.get_submodule(layer)
    with torch.no_grad():
        part.weight[:, 0] += 3e3
        before = _feeding(made.module, layer)
        before.weight[0] = 0
        before.bias[0] = 0
    return made


def _feeding(module: nn.Module, layer: str) -> Any:
    norms = [part for name, part in module.named_modules() if isinstance(part, nn.BatchNorm2d) and name < layer]
    return norms[-1]


def test_the_layer_that_costs_most_is_left_in_float(trained: Model, dataset: Dataset, tmp_path: Path) -> None:
    """block2.conv reads a channel that is always 0 with weights of 3,000: all others round to 0."""
    model = crushed(trained, "block2.conv")
    assert np.array_equal(
        logits(model, dataset.val.images), logits(crushed(trained, "block2.conv"), dataset.val.images)
    )
    desk = desk_of(model, dataset, tmp_path)
    layers = ptq.layers_of(desk, Ptq())
    assert layers == ["/net/block1/conv/Conv", "/net/block2/conv/Conv", "/net/classifier/Gemm"]
    left = ptq.sensitivity(desk, "u8s8-rr", Ptq(), [[name] for name in layers])
    assert int(np.argmin(left)) == 1
    order = Order("m", model, ("int8",), tmp_path / "b", tmp_path / "w", {})
    options = ExportOptions(int8_equalize=False, int8_correct=False, int8="u8s8-rr", int8_max_drop=0.02)
    outcome = deliver.deliver(order, "onnx", dataset, options, seed=0, progress=Silent())
    (made,) = outcome.exported
    assert made.parity.passed
    assert made.manifest.lineage["int8"].endswith("in float: /net/block2/conv/Conv")
    assert [one.passed for one in outcome.candidates] == [False, True]
    none = deliver.deliver(
        dataclasses.replace(order, folder=tmp_path / "b2", workspace=tmp_path / "w2"),
        "onnx",
        dataset,
        options.model_copy(update={"int8_float_layers": 0.0}),
        seed=0,
        progress=Silent(),
    )
    (lost,) = none.exported
    assert not lost.parity.passed
    assert "int8 does not pay here, take fp32" in lost.notes[0]


def test_equalising_rescues_what_it_can(trained: Model, dataset: Dataset, tmp_path: Path) -> None:
    """The same net, with equalisation left on: the dead channel is no matter any more, and no layer stays float."""
    model = crushed(trained, "block2.conv")
    first = _feeding(model.module, "block2.conv")
    with torch.no_grad():
        first.weight[0] = 1e-6  # a channel of nothing can be scaled, an empty one cannot
    desk = desk_of(model, dataset, tmp_path)
    plain, even = (ptq.distance(desk, "u8s8-rr", one) for one in (Ptq(), Ptq(equalize=True)))
    assert even < 0.2 * plain


def test_a_run_never_looks_at_test_images_to_choose(trained: Model, dataset: Dataset, tmp_path: Path) -> None:
    desk = desk_of(trained, dataset, tmp_path)
    asked = []
    original = desk.scores
    desk.scores = lambda path, part: asked.append(part) or original(path, part)  # type: ignore[method-assign, func-returns-value]
    chosen = ptq.first_choice(desk, "u8s8-rr")
    list(ptq.further_choices(desk, "u8s8-rr", chosen))
    assert set(asked) == {"val"}
    assert RUNTIMES["onnx"].load(desk.write("int8", "u8s8-rr", chosen)).scores(dataset.val.images).shape == (60, 3)


def test_pairs_are_named_by_their_nodes(trained: Model, tmp_path: Path) -> None:
    pairs, reasons = equalize(prepared(trained, tmp_path))
    assert pairs == [
        Pair("/net/block1/conv/Conv", "/net/block2/conv/Conv"),
        Pair("/net/block2/conv/Conv", "/net/classifier/Gemm"),
    ]
    assert reasons == {"/net/classifier/Gemm": "its output is the answer"}


@pytest.mark.slow
def test_ranges_that_cannot_be_compared_leave_the_plain_ones(
    trained: Model, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quantizer that fails on one of the compared files costs the choice, not the int8 file."""

    def fails(*_: object) -> Ptq:
        raise AssertionError("Graph is not a DAG")

    monkeypatch.setattr(deliver, "first_choice", fails)
    order = Order("base", trained, ("int8",), tmp_path / "bundles", tmp_path / "work", {})
    options = ExportOptions(int8="u8s8-rr", int8_max_drop=1.0)
    outcome = deliver.deliver(order, "onnx", dataset, options, seed=0, progress=Silent())
    (made,) = outcome.exported
    assert made.manifest.lineage["int8"] == Ptq().words()
    (failure,) = outcome.failures
    assert failure.name == "base-int8 (choice of ranges)"
    assert "Graph is not a DAG" in failure.reason
