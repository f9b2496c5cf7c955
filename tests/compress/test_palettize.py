"""palettize: exactly so many values, grids and books that training keeps, bits that go where they matter, refusals."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.bundle import InputSpec
from edgewise.compress import apply_plan, check_plan
from edgewise.compress.held import FromBooks, Halves, OnGrid, hold, settle, weighted
from edgewise.compress.levels import Grid, fit_grid
from edgewise.compress.palettize import MIXED, PalettizeOptions, choose_bits, palettize, sensitivity
from edgewise.errors import ConfigError, NoEffect, UntrustedError
from edgewise.models import Model, create_model, open_model, save_model
from edgewise.train import logits
from tests.train.conftest import CLASSES, SPEC, make_dataset


def make(name: str = "convnet(8, 16)") -> Model:
    return create_model(name, labels=CLASSES, input=SPEC, seed=0)


@dataclass
class Tuner:
    """A context that trains for a few steps of plain SGD on noise, and notes what it was asked."""

    asked: list[int | None] = field(default_factory=list)
    dataset: Any = field(default_factory=make_dataset)
    seed: int = 0

    def finetune(self, model: Model, *, epochs: int | None = None, loss: Any = None, lr: float | None = None) -> Model:
        self.asked.append(epochs)
        module = model.copy().module.train()
        optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=0.01)
        generator = torch.Generator().manual_seed(0)
        for _ in range(5):
            optimizer.zero_grad()
            images = torch.randn(16, 1, 12, 12, generator=generator)
            torch.nn.functional.cross_entropy(module(images), torch.arange(16) % 3).backward()
            optimizer.step()
        return replace(model, module=module.eval())


def run(model: Model, tuner: Tuner | None = None, **options: Any) -> Model:
    return palettize(model, PalettizeOptions(**options), tuner or Tuner())  # type: ignore[arg-type]


def weights_of(model: Model) -> dict[str, np.ndarray]:
    return {name: layer.weight.detach().numpy() for name, layer in weighted(model.module).items()}


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("epochs", [0, 2])
def test_each_channel_takes_so_many_evenly_spaced_values(bits: int, epochs: int) -> None:
    made = run(make(), bits=bits, epochs=epochs)
    (edit,) = made.structure
    for name, weight in weights_of(made).items():
        record = edit["layers"][name]
        for row, scale, centre in zip(
            weight.reshape(len(weight), -1), record["scales"], record["centres"], strict=True
        ):
            codes = (row.astype(np.float64) / scale + centre) / 2
            assert np.array_equal(codes, np.rint(codes)), "off the grid"
            assert 0 <= codes.min() <= codes.max() <= 2**bits - 1


@pytest.mark.parametrize("epochs", [0, 2])
def test_each_group_of_channels_takes_the_values_of_its_book(epochs: int) -> None:
    made = run(make(), bits=3, method="kmeans", groups=2, epochs=epochs)
    for name, weight in weights_of(made).items():
        books = made.structure[0]["layers"][name]["books"]
        assert len(books) == 2
        group = np.arange(len(weight)) * 2 // len(weight)
        for number, book in enumerate(books):
            assert len(book) <= 8
            assert set(np.unique(weight[group == number])) <= set(np.float32(book))


def test_sixteen_bits_are_float16_values_and_are_not_trained() -> None:
    tuner = Tuner()
    before, made = weights_of(make()), run(make(), tuner, bits=16)
    assert tuner.asked == []
    for name, weight in weights_of(made).items():
        np.testing.assert_array_equal(weight, before[name].astype(np.float16).astype(np.float32))


def test_fine_tuning_moves_weights_biases_norms_and_levels() -> None:
    plain, tuned = run(make(), bits=4, epochs=0), run(make(), tuner := Tuner(), bits=4)
    assert tuner.asked == [None]
    before, after = plain.module.state_dict(), tuned.module.state_dict()
    assert before.keys() == after.keys() == make().module.state_dict().keys()
    assert all(not torch.equal(before[name], after[name]) for name in before if before[name].is_floating_point())
    records = [one.structure[0]["layers"]["block2.conv"] for one in (plain, tuned)]
    assert records[0]["scales"] != records[1]["scales"]
    assert all(parameter.requires_grad for parameter in tuned.module.parameters())


def test_the_ends_can_keep_more_bits() -> None:
    made = run(make("convnet(4, 8, 8)"), bits=2, ends=8, epochs=0)
    bits = {name: record["bits"] for name, record in made.structure[0]["layers"].items()}
    assert bits == {"block1.conv": 8, "block2.conv": 2, "block3.conv": 2, "classifier": 8}
    left = run(make("convnet(4, 8, 8)"), bits=2, ends=32, epochs=0)
    assert set(left.structure[0]["layers"]) == {"block2.conv", "block3.conv"}
    np.testing.assert_array_equal(weights_of(left)["classifier"], weights_of(make("convnet(4, 8, 8)"))["classifier"])


def test_zeros_that_were_made_stay_zero_through_fine_tuning() -> None:
    for method in ("uniform", "kmeans"):
        sparse = apply_plan(make(), "sparsify(0.7, epochs=0)", Tuner())  # type: ignore[arg-type]
        made = run(sparse, bits=4, method=method)
        for name, weight in weights_of(made).items():
            gone = weights_of(sparse)[name] == 0
            assert gone.mean() > 0.65
            assert (weight[gone] == 0).all()
            assert (weight[~gone] != 0).mean() > 0.9


# --- What training does ------------------------------------------------------------------------------------------


def test_the_straight_through_gradient_is_that_of_lsq() -> None:
    """Inside: 1 for the weight, level - w/s for the scale; outside: 0, and the end of the grid (equations 2 and 3)."""
    weight = torch.tensor([[0.3, -0.55, 9.0, -9.0]])
    layer = torch.nn.Linear(4, 1, bias=False)
    layer.weight.data = weight.clone()
    scale, centre, bits = 0.25, 8, 3
    hold(layer, OnGrid(Grid(np.array([scale], np.float32), np.array([centre], np.int32), bits), None))
    out = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    (layer.weight[0] * out).sum().backward()
    held = layer.parametrizations.weight  # type: ignore[union-attr]
    steps = (weight / scale)[0]
    levels = 2 * ((steps + centre) / 2).round().clamp(0, 7) - centre
    assert held.original.grad.tolist() == [[1, 10, 0, 0]]
    per_scale = torch.where(torch.tensor([True, True, False, False]), levels - steps, levels)
    slower = (4 * 4) ** -0.5
    assert held[0].drift.grad.item() == pytest.approx((per_scale * out).sum().item() * scale * slower, rel=1e-5)


def test_the_gradient_of_an_entry_is_the_sum_over_its_weights() -> None:
    layer = torch.nn.Linear(3, 2, bias=False)
    book, index = np.array([[1.0, 3.0]], np.float32), torch.tensor([[0, 1, 1], [0, 0, 1]])
    hold(layer, FromBooks(book, index, 1, None))
    assert layer.weight.tolist() == [[1, 3, 3], [1, 1, 3]]
    (layer.weight * torch.tensor([[1.0, 2, 4], [8, 16, 32]])).sum().backward()
    held = layer.parametrizations.weight[0]  # type: ignore[union-attr, index]
    assert held.drift.grad.tolist() == pytest.approx([25 * 5**0.5, 38 * 5**0.5])


def test_settling_leaves_what_was_held() -> None:
    layer = torch.nn.Linear(5, 4)
    weight = layer.weight.detach().clone()
    hold(layer, Halves(None))
    settle(layer)
    assert torch.equal(layer.weight, weight.half().float())
    assert set(layer.state_dict()) == {"weight", "bias"}
    assert type(layer) is torch.nn.Linear
    grid = fit_grid(weight.numpy(), 2)
    hold(layer, OnGrid(grid, None))
    settle(layer)
    assert np.array_equal(layer.weight.detach().numpy(), grid.nearest(weight.half().float().numpy()))


# --- Mixed bits --------------------------------------------------------------------------------------------------


def test_losses_grow_with_fewer_bits_and_a_layer_that_does_not_matter_costs_nothing() -> None:
    model = make("convnet(8, 8, 8)")
    with torch.no_grad():
        model.module.get_submodule("block3.norm").weight.zero_()  # type: ignore[union-attr]
        model.module.get_submodule("classifier").weight.mul_(30)  # type: ignore[operator]
    images = make_dataset().test.images
    found = sensitivity(model, tuple(weighted(model.module)), PalettizeOptions(average=4), images)
    assert found["block3.conv"] == dict.fromkeys(MIXED, 0.0)
    assert found["classifier"][8] >= 0
    other = make("convnet(8, 8)")
    found = sensitivity(other, ("block1.conv", "block2.conv"), PalettizeOptions(average=4), images)
    for row in found.values():
        assert row[2] > row[4] > row[8] >= 0


def test_the_average_is_kept_and_the_bits_differ() -> None:
    made = run(make("convnet(4, 8, 16)"), average=3.5, epochs=0)
    records = made.structure[0]["layers"]
    sizes = {name: weight.size for name, weight in weights_of(made).items()}
    mean = sum(records[name]["bits"] * size for name, size in sizes.items()) / sum(sizes.values())
    assert 3 <= mean <= 3.5
    assert len({record["bits"] for record in records.values()}) > 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_chosen_bits_fit_and_are_near_the_best_of_all_ways(data: st.DataObject) -> None:
    names = ["a", "b", "c", "d"]
    sizes = {name: data.draw(st.integers(1, 50)) for name in names}
    losses = {
        name: dict(zip(MIXED, sorted(data.draw(st.lists(st.floats(0, 1), min_size=6, max_size=6)))[::-1], strict=True))
        for name in names
    }
    room = data.draw(st.floats(2, 8)) * sum(sizes.values())

    def total(ways: tuple[int, ...]) -> float:
        return sum(losses[name][bits] for name, bits in zip(names, ways, strict=True))

    def taken(ways: tuple[int, ...]) -> int:
        return sum(sizes[name] * bits for name, bits in zip(names, ways, strict=True))

    chosen = choose_bits(losses, sizes, room)
    mine = tuple(chosen[name] for name in names)
    fitting = [ways for ways in itertools.product(MIXED, repeat=4) if taken(ways) <= room]
    assert mine in fitting
    alike = [total((bits,) * 4) for bits in MIXED if taken((bits,) * 4) <= room]
    assert total(mine) <= min(alike) + 1e-9, "never worse than the same width for all"
    assert total(mine) <= min(map(total, fitting)) + 1.0, "at most one layer's step from the best"


# --- Refusals ----------------------------------------------------------------------------------------------------


def test_thirty_two_bits_and_nets_without_such_layers_have_no_effect() -> None:
    with pytest.raises(NoEffect, match="found nothing to do") as caught:
        run(make(), bits=32)
    assert caught.value.code == "N20"
    empty = Model(torch.nn.Flatten(), "none", InputSpec(2, 2), CLASSES)
    with pytest.raises(NoEffect) as caught:
        run(empty, bits=4, epochs=0)
    assert "no convolutions" in caught.value.why


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ("palettize(7)", "bits"),
        ("palettize(1)", "bits"),
        ("palettize(4, average=4)", "only the average"),
        ("palettize(average=9)", "less than or equal to 8"),
        ("palettize(method=lloyd)", "uniform"),
    ],
)
def test_wrong_options_are_told(plan: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_plan(plan)


@pytest.mark.parametrize(
    "change",
    [
        lambda edit: edit.update(extra=1),
        lambda edit: edit.update(layers=[]),
        lambda edit: edit["layers"].update(nowhere={"bits": 4}),
        lambda edit: edit["layers"].update({"block1.norm": {"bits": 4}}),
        lambda edit: edit["layers"]["block1.conv"].update(bits=7),
        lambda edit: edit["layers"]["block1.conv"].update(scales=[1.0]),
        lambda edit: edit["layers"]["block1.conv"].update(scales=["x"] * 8),
        lambda edit: edit["layers"]["block1.conv"].update(scales=[float("nan")] * 8),
        lambda edit: edit["layers"].update({"block1.conv": {"bits": 4, "books": []}}),
        lambda edit: edit["layers"].update({"block1.conv": {"bits": 4, "books": [[1.0], [1.0, 2.0]]}}),
        lambda edit: edit["layers"].update({"block1.conv": {"bits": 4, "code": "print(1)"}}),
    ],
)
def test_a_recorded_edit_that_does_not_fit_is_refused(change: Any, tmp_path: Path) -> None:
    save_model(run(make(), bits=4, epochs=0), tmp_path)
    open_model(tmp_path)
    edits = json.loads((tmp_path / "structure.json").read_text())
    change(edits[0])
    text = json.dumps(edits)
    (tmp_path / "structure.json").write_text(text)
    config = json.loads((tmp_path / "config.json").read_text())
    config["sha256"]["structure.json"] = hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UntrustedError) as caught:
        open_model(tmp_path)
    assert caught.value.code == "U12"


def test_reopened_records_are_those_that_were_written(tmp_path: Path) -> None:
    for number, options in enumerate([{"bits": 4}, {"bits": 3, "method": "kmeans"}, {"bits": 16}]):
        made = run(make(), epochs=0, **options)
        save_model(made, tmp_path / str(number))
        again = open_model(tmp_path / str(number))
        assert again.structure == made.structure
        images = make_dataset().test.images
        assert np.array_equal(logits(again, images), logits(made, images))
