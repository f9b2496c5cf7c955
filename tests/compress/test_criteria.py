"""What channels are ranked by: each criterion against its formula, what is known of channels against the net itself,
and torch-pruning's own importances; then scope, targets, steps and layers that are left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pydantic
import pytest
import torch
import torch.nn.functional as F
import torch_pruning
from torch import nn

from edgewise.compress.channels import describe, faults, find_sets
from edgewise.compress.criteria import CRITERIA, Channels
from edgewise.compress.prune import PruneOptions, prune, remove_channels
from edgewise.errors import ConfigError, NoEffect
from edgewise.models import Model, create_model
from edgewise.models.cost import cost
from tests.compress.test_prune import FakeContext, channels, make
from tests.train.conftest import CLASSES, SPEC, make_dataset


def known(n: int = 5, seed: int = 0) -> Channels:
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.standard_normal(shape))

    uniform = torch.from_numpy(random.uniform(size=(3, n)))
    return Channels(draw(n, 12), draw(n, 7), draw(n, 2), draw(4, n), uniform[0], uniform[1], uniform[2])


FORMULAS: dict[str, Any] = {
    "l1": lambda c: np.abs(c.filters.numpy()).sum(1),
    "l2": lambda c: np.linalg.norm(c.filters.numpy(), axis=1),
    "bn": lambda c: np.abs(c.scales.numpy()).mean(1),
    "taylor": lambda c: (c.changes.numpy() ** 2).mean(0),
    "group": lambda c: np.linalg.norm(np.hstack([c.filters.numpy(), c.readers.numpy(), c.scales.numpy()]), axis=1),
    "activation": lambda c: c.activity.numpy(),
    "apoz": lambda c: 1 - c.zeros.numpy(),
    "fpgm": lambda c: np.array([sum(np.linalg.norm(a - b) for b in c.filters.numpy()) for a in c.filters.numpy()]),
    "random": lambda c: c.draw.numpy(),
}


@pytest.mark.parametrize("name", CRITERIA)
def test_each_criterion_is_its_formula(name: Any) -> None:
    one = known()
    np.testing.assert_allclose(CRITERIA[name].score(one).numpy(), FORMULAS[name](one), atol=1e-6)


def test_without_batch_norm_its_factors_give_way_to_the_filters() -> None:
    one = replace(known(), scales=torch.zeros(5, 0, dtype=torch.float64))
    assert torch.equal(CRITERIA["bn"].score(one), CRITERIA["l2"].score(one))


# --------------------------------------------------------------------------------- what is known of the channels


def prepared(architecture: str, size: int = 16) -> tuple[nn.Module, torch.Tensor]:
    model = make(architecture, size)
    for layer in model.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
    return model.module.eval().requires_grad_(True), torch.randn(2, 3, size, size)


def test_filters_readers_and_norms_of_a_plain_net() -> None:
    net, images = prepared("flatnet(6, 4, hidden=5)")
    found = describe(net, find_sets(net, images, chains=False), "weights")
    assert list(found) == ["block1.conv", "block2.conv", "hidden"]
    one: Any = net
    torch.testing.assert_close(found["block1.conv"].filters.float(), one.block1.conv.weight.detach().flatten(1))
    reading = one.block2.conv.weight.detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(found["block1.conv"].readers.float(), reading)
    torch.testing.assert_close(found["block2.conv"].scales.float(), one.block2.norm.weight.detach()[:, None])
    # The hidden layer reads 4 x 4 places of each channel.
    norms = one.hidden.weight.detach().view(5, 4, 16).transpose(0, 1).flatten(1).norm(dim=1)
    torch.testing.assert_close(found["block2.conv"].readers.float().norm(dim=1), norms)
    assert found["hidden"].scales.shape == (5, 0)


def test_layers_that_are_added_are_one_set() -> None:
    net, images = prepared("truncate(resnet18, layer1)", 32)
    found = describe(net, find_sets(net, images, chains=False), "weights")
    one: Any = net
    writers = ["features.conv1", "features.layer1.0.conv2", "features.layer1.1.conv2"]
    squares = sum(one.get_submodule(name).weight.detach().flatten(1).square().sum(1) for name in writers)
    torch.testing.assert_close(found["features.conv1"].filters.square().sum(1).float(), squares)
    assert found["features.conv1"].scales.shape == (64, 3)


def test_grouped_readers_are_read_group_by_group() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3, groups=2), nn.Flatten(), nn.Linear(6 * 36, 2)).eval()
    found = describe(net, find_sets(net, torch.randn(2, 3, 8, 8), chains=False), "weights")
    grouped: Any = net[1]
    weight = grouped.weight.detach().double()
    for channel in range(8):
        own = weight[3 * (channel // 4) : 3 * (channel // 4) + 3, channel % 4].flatten()
        assert found["0"].readers[channel].norm() == pytest.approx(float(own.norm()))


def test_taylor_is_the_change_of_the_loss_when_filters_shrink_a_little() -> None:
    """Directional derivative by finite differences, in float64."""
    net, _ = prepared("convnet(4, 6)", 8)
    net.double()
    images, labels = torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 0])
    sets = find_sets(net, images[:2], chains=False)
    found = describe(net, sets, "gradients", [(images[:3], labels[:3]), (images[3:], labels[3:])])
    weight: Any = net.get_submodule("block2.conv").weight
    assert weight.grad is None
    step = 1e-6
    for batch, rows in enumerate((slice(0, 3), slice(3, 6))):
        for channel in range(6):
            losses = []
            for sign in (1, -1):
                with torch.no_grad():
                    kept = weight[channel].clone()
                    weight[channel] *= 1 + sign * step
                    losses.append(F.cross_entropy(net(images[rows]), labels[rows]).item())
                    weight[channel] = kept
            slope = (losses[0] - losses[1]) / (2 * step)
            assert float(found["block2.conv"].changes[batch, channel]) == pytest.approx(slope, abs=1e-7)


def test_activity_is_taken_where_the_channels_are_read() -> None:
    net, _ = prepared("flatnet(6, 4, hidden=5)")
    images, labels = torch.randn(10, 3, 16, 16), torch.zeros(10, dtype=torch.int64)
    sets = find_sets(net, images[:2], chains=False)
    found = describe(net, sets, "activations", [(images[:4], labels[:4]), (images[4:], labels[4:])])
    one: Any = net
    with torch.no_grad():
        first = one.block1(images)
        second = one.block2(first)
        hidden = one.act(one.hidden(one.flatten(second)))
    for name, maps in (("block1.conv", first), ("block2.conv", second), ("hidden", hidden[:, :, None, None])):
        torch.testing.assert_close(found[name].activity.float(), maps.abs().mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[name].zeros.float(), (maps == 0).float().mean((0, 2, 3)))
    assert float(found["hidden"].zeros.max()) > 0


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("l2", torch_pruning.importance.GroupMagnitudeImportance(2, "sum", None, target_types=[nn.Conv2d])),
        ("bn", torch_pruning.importance.BNScaleImportance(group_reduction="mean", normalizer=None)),
    ],
)
def test_single_layers_rank_as_with_torch_pruning(name: Any, theirs: Any) -> None:
    """Of the last block only, whose reader is linear and not looked at by theirs."""
    net, images = prepared("convnet(4, 12)", 8)
    (*_, last) = find_sets(net, images, chains=False)
    ours = CRITERIA[name].score(describe(net, [last], "weights")[last.name])
    expected = theirs(last.graph.get_pruning_group(last.root, last.root_function, list(range(12))))
    assert torch.argsort(ours).tolist() == torch.argsort(expected).tolist()


# ------------------------------------------------------------------------------------------------- how much goes


@pytest.mark.parametrize("target", [{"macs": 0.5}, {"params": 0.3}, {"macs": 0.2, "scope": "net"}])
def test_a_target_is_met_and_not_by_far(target: dict[str, Any]) -> None:
    model = make("convnet(16, 32, 32)", 16)
    pruned = remove_channels(model, PruneOptions(**target))
    before, after = cost(model.module, model.input), cost(pruned.module, pruned.input)
    share = after.macs / before.macs if "macs" in target else after.params_total / before.params_total
    wish = target.get("macs") or target["params"]
    assert wish - 0.1 < share <= wish


def test_a_target_out_of_reach_is_told() -> None:
    with pytest.raises(ConfigError, match=r"cannot bring the parameters down to 0\.001") as caught:
        remove_channels(make("convnet(8, 8)", 16), PruneOptions(params=0.001))
    assert (caught.value.code, caught.value.exit_code) == ("C86", 2)


def test_ranked_against_each_other_the_weaker_layer_loses_more() -> None:
    """One layer's filters are all alike, the other's half dead: only the dead go, and of each layer a tenth stays."""
    model = make("convnet(20, 20)", 8)
    one: Any = model.module
    with torch.no_grad():
        one.block1.conv.weight.fill_(0.1)
        one.block2.conv.weight.fill_(0.1)
        one.block2.conv.weight[10:] *= 1e-3
    assert channels(remove_channels(model, PruneOptions(ratio=0.25, scope="net"))) == (20, 10)
    pruned = remove_channels(model, PruneOptions(ratio=0.9, scope="net"))
    assert channels(pruned) == (2, 2)


def test_ranked_against_each_other_the_share_of_all_channels_goes_and_rounding_holds() -> None:
    model = make("convnet(16, 32, 64)", 16, seed=1)
    widths = channels(remove_channels(model, PruneOptions(ratio=0.5, scope="net")))
    assert sum(widths) == 56
    rounded = channels(remove_channels(model, PruneOptions(ratio=0.5, scope="net", round_to=8)))
    assert all(width % 8 == 0 for width in rounded)


def test_ignored_layers_and_those_tied_to_them_keep_their_channels() -> None:
    pruned = remove_channels(make("convnet(8, 8, 8)", 16), PruneOptions(ratio=0.5, ignore=("block2.*",)))
    assert channels(pruned) == (4, 8, 4)
    tied = remove_channels(make("truncate(resnet18, layer1)", 32), PruneOptions(ratio=0.5, ignore=("*.1.conv2",)))
    assert tied.module.features.conv1.out_channels == 64  # type: ignore[union-attr]
    assert tied.module.features.layer1[0].conv1.out_channels == 32  # type: ignore[union-attr, index]
    with pytest.raises(NoEffect):
        remove_channels(make("convnet(8, 8)", 16), PruneOptions(ignore=("*",)))


def test_random_is_another_choice_than_the_norm_and_the_same_each_time() -> None:
    model = make("convnet(16, 16)", 8)
    kept = [
        remove_channels(model, PruneOptions(criterion=name)).module.block1.conv.weight.detach()  # type: ignore[union-attr]
        for name in ("random", "random", "l2")
    ]
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])


class _Keeps(FakeContext):
    """Hands back what it is given."""

    def finetune(self, model: Model, *, epochs: int | None = None, lr: float | None = None) -> Model:
        self.asked.append((model, epochs))
        return model


def test_steps_train_in_between_and_end_at_the_exact_widths() -> None:
    context = _Keeps()
    options = PruneOptions(ratio=(0.3, 0.5), steps=3, step_epochs=2)
    made = prune(make("convnet(10, 40)", 16), options, context)  # type: ignore[arg-type]
    assert channels(made) == (7, 20)
    assert [epochs for _, epochs in context.asked] == [2, 2, None]
    widths = [channels(model) for model, _ in context.asked]
    assert widths == [(8, 31), (7, 25), (7, 20)]
    assert [edit["edit"] for edit in made.structure] == ["resize"] * 3


def test_small_steps_that_round_to_nothing_are_passed_over() -> None:
    context = _Keeps()
    made = prune(make("convnet(4)", 8), PruneOptions(ratio=0.25, steps=4), context)  # type: ignore[arg-type]
    assert channels(made) == (3,)
    with pytest.raises(NoEffect):
        prune(make("convnet(2)", 8), PruneOptions(ratio=0.0, steps=3), context)  # type: ignore[arg-type]


@pytest.mark.parametrize("criterion", ["taylor", "activation", "apoz"])
def test_criteria_that_look_at_images_spare_the_channels_that_matter(criterion: Any) -> None:
    """Half of the channels are switched off behind their norm: they change nothing, whatever their filters are."""
    dataset = make_dataset()
    model = create_model("convnet(8, 12)", labels=CLASSES, input=SPEC, seed=0)
    one: Any = model.module
    with torch.no_grad():
        for block, dead in ((one.block1, [0, 2, 5, 7]), (one.block2, [1, 2, 3, 8, 9, 10])):
            block.conv.weight[dead] *= 100
            block.norm.weight[dead] = 0
            block.norm.bias[dead] = 0
    context = _Keeps()
    context.dataset = dataset  # type: ignore[attr-defined]
    made = prune(model, PruneOptions(criterion=criterion, epochs=0), context)  # type: ignore[arg-type]
    images = torch.randn(4, 1, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(made.module(images), model.module(images))


# ------------------------------------------------------------------------------- nets that are followed in part


class _Splits(nn.Module):
    """A block that cuts its channels into parts of fixed size, between two that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fixed = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.parts = nn.ModuleList([nn.Conv2d(5, 4, 1), nn.Conv2d(3, 4, 1)])
        self.last, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.fixed(self.first(images).relu()).relu()
        parts = torch.split(maps, [5, 3], 1)
        maps = torch.cat([part(one) for part, one in zip(self.parts, parts, strict=True)], 1)
        return self.head(self.last(maps).relu().mean((2, 3)))


def test_what_cannot_be_followed_is_left_alone_and_named() -> None:
    torch.manual_seed(0)
    model = replace(make("convnet(4)", 8), module=_Splits().eval(), architecture="splits")
    said: list[str] = []
    pruned = remove_channels(model, PruneOptions(ratio=0.5), said.append)
    net: Any = pruned.module
    assert (net.first.out_channels, net.fixed.out_channels, net.last.out_channels) == (4, 8, 4)
    (line,) = said
    assert line.startswith("prune leaves alone: fixed (")


def test_looking_for_faults_changes_nothing() -> None:
    net = make("mobilenetv3_small_050", 32).module.eval().requires_grad_(True)
    images = torch.randn(2, 3, 32, 32)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    shown = str(net)
    sets = find_sets(net, images, chains=False)[:6]
    for one in sets:
        one.gone = [0, 1]
    assert faults(net, sets, images) == {}
    assert str(net) == shown
    assert all(torch.equal(before[name], tensor.float()) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.5, "macs": 0.5},
        {"macs": 0.5, "params": 0.5},
        {"ratio": (0.5,), "scope": "net"},
        {"macs": 0},
        {"macs": 1},
        {"steps": 0},
        {"criterion": "best"},
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        PruneOptions(**options)
