"""Width, depth and resolution: exact widths and counts, the families' own multipliers, shrinking, and refusals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pydantic
import pytest
import torch
from torch import nn

from edgewise.bundle import InputSpec
from edgewise.compress import check_plan
from edgewise.compress.prune import PruneOptions, remove_channels
from edgewise.compress.truncate import TruncateOptions, truncate
from edgewise.compress.width import WidthOptions, scale_width, width
from edgewise.errors import ConfigError, NoEffect
from edgewise.models import Model, create_model, default_input, rebuild, with_width
from edgewise.models.cost import cost
from edgewise.models.width import FAMILIES


def make(architecture: str, size: int = 32, classes: int = 11, seed: int = 0) -> Model:
    labels = [f"class {index}" for index in range(classes)]
    return create_model(architecture, labels=labels, input=InputSpec(size, size), seed=seed)


@dataclass
class FakeContext:
    """Notes what it is asked to train and gives it back."""

    seed: int = 3
    asked: list[tuple[str, int | None]] = field(default_factory=list)

    def fit(self, model: Model, *, epochs: int | None = None, lr: float | None = None) -> Model:
        self.asked.append(("fit", epochs))
        return model

    def finetune(self, model: Model, *, epochs: int | None = None, lr: float | None = None) -> Model:
        self.asked.append(("finetune", epochs))
        return model


@pytest.mark.parametrize(
    ("name", "alpha", "unit", "scaled"),
    [
        ("convnet(32,64,128, dropout=0.2)", 0.5, 8, "convnet(16, 32, 64, dropout=0.2)"),
        ("convnet(32,64,128)", 0.25, 8, "convnet(8, 16, 32)"),
        ("convnet(32,64,128)", 1.4, 8, "convnet(48, 88, 176)"),
        ("convnet(32,64,128)", 0.3, 1, "convnet(10, 19, 38)"),
        ("convnet(4,8)", 0.5, 8, "convnet(4, 8)"),
        ("flatnet(16,32,48, hidden=128)", 0.5, 8, "flatnet(8, 16, 24, hidden=64)"),
        ("flatnet(16,32)", 0.5, 8, "flatnet(8, 16, hidden=64)"),
        ("dscnn(16,24,24)", 0.5, 8, "dscnn(8, 8, 8, strides=(1, 2, 1))"),
        ("dscnn(16,32, strides=(2,1))", 0.5, 8, "dscnn(8, 16, strides=(2, 1))"),
        ("mobilenetv3_small_100", 0.75, 8, "width(mobilenetv3_small_100, 0.75)"),
        ("width(mobilenetv3_small_100, 0.75)", 0.5, 8, "width(mobilenetv3_small_100, 0.375)"),
        ("torchvision/mobilenet_v2", 0.5, 8, "width(torchvision/mobilenet_v2, 0.5)"),
        ("resnet18", 0.5, 8, None),
        ("truncate(resnet18, layer2)", 0.5, 8, None),
    ],
)
def test_names(name: str, alpha: float, unit: int, scaled: str | None) -> None:
    assert with_width(name, alpha, unit) == scaled


@pytest.mark.parametrize(
    ("name", "alpha", "same"),
    [
        ("mobilenetv3_small_100", 0.5, "mobilenetv3_small_050"),
        ("mobilenetv3_small_050", 2.0, "mobilenetv3_small_100"),
        ("mobilenetv2_100", 0.5, "mobilenetv2_050"),
        ("mobilenetv3_large_100", 0.75, "mobilenetv3_large_075"),
        ("mobilenetv1_100", 1.25, "mobilenetv1_125"),
        ("lcnet_100", 0.5, "lcnet_050"),
        ("ghostnet_100", 0.5, "ghostnet_050"),
        ("repghostnet_100", 0.5, "repghostnet_050"),
    ],
)
def test_a_family_scaled_to_a_ready_made_net_is_that_net(name: str, alpha: float, same: str) -> None:
    made, ready = make(f"width({name}, {alpha})"), make(same)
    shapes = [[tuple(tensor.shape) for tensor in one.module.state_dict().values()] for one in (made, ready)]
    assert shapes[0] == shapes[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_each_family_at_one_is_the_net_itself_and_shrinks_in_eights(name: str) -> None:
    same, ready = make(f"width({name}, 1.0)", 64), make(name, 64)
    shapes = [[tuple(tensor.shape) for tensor in one.module.state_dict().values()] for one in (same, ready)]
    assert shapes[0] == shapes[1]
    narrow = make(f"width({name}, 0.75)", 64)
    assert cost(narrow.module, narrow.input).macs < cost(ready.module, ready.input).macs
    unit = 4 if "ghost" in name else 8
    blocks: Any = narrow.module.blocks  # type: ignore[attr-defined]
    parts = [layer for layer in blocks.modules() if type(layer).__name__.endswith("Residual")]
    widths = [layer.conv_pwl.out_channels for layer in parts if hasattr(layer, "conv_pwl")]
    assert all(width % unit == 0 for width in widths)


def test_torchvisions_mobile_net_has_the_multiplier_of_torchvision() -> None:
    import torchvision

    made = make("width(torchvision/mobilenet_v2, 0.5)", 64)
    theirs = torchvision.models.mobilenet_v2(width_mult=0.5, num_classes=11)
    assert sum(p.numel() for p in made.module.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert default_input("width(mobilenetv3_small_100, 0.75)") == default_input("mobilenetv3_small_100")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("width(mobilenetv3_small_100)", "takes a model and a multiplier"),
        ("width(mobilenetv3_small_100, 5)", "from 0.1 to 2"),
        ("width(mobilenetv3_small_100, True)", "takes a model and a multiplier"),
        ("width(resnet18, 0.5)", "has no width multiplier"),
    ],
)
def test_names_that_make_no_sense(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        make(name)
    assert caught.value.code == "C41"


def test_there_are_no_pretrained_weights_for_another_width() -> None:
    with pytest.raises(ConfigError, match="no pretrained weights") as caught:
        create_model("width(mobilenetv3_small_100, 0.5)", labels="ab", input=InputSpec(64, 64), pretrained=True)
    assert caught.value.code == "C42"


def test_our_families_are_made_anew_under_their_new_name() -> None:
    context = FakeContext()
    made = width(make("convnet(32, 64, 128, dropout=0.2)", 128, 2), WidthOptions(alpha=0.5), context)  # type: ignore[arg-type]
    assert (made.architecture, made.structure) == ("convnet(16, 32, 64, dropout=0.2)", ())
    assert cost(made.module, made.input).params_total == 23_938
    assert context.asked == [("fit", None)]
    fresh = create_model(made.architecture, labels=made.labels, input=made.input, seed=3)
    assert torch.equal(fresh.module.block1.conv.weight, made.module.block1.conv.weight)


def test_any_other_net_is_shrunk_along_its_graph_with_fresh_weights() -> None:
    model = make("resnet18", 32)
    made = scale_width(model, WidthOptions(alpha=0.75), seed=3)
    convolutions = [layer for layer in made.module.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions][:2] == [48, 48]
    assert all(layer.out_channels % 8 == 0 for layer in convolutions)
    again = rebuild(made, seed=3)
    assert torch.equal(made.module.conv1.weight, again.module.conv1.weight)
    assert not torch.equal(made.module.conv1.weight, model.module.conv1.weight[:48])


def test_inherited_weights_are_the_largest_filters() -> None:
    model = make("convnet(16, 32)")
    made = scale_width(model, WidthOptions(alpha=0.5, inherit=True), seed=3)
    pruned = remove_channels(model, PruneOptions(ratio=0.5, round_to=8))
    assert all(
        torch.equal(tensor, pruned.module.state_dict()[name]) for name, tensor in made.module.state_dict().items()
    )


@pytest.mark.parametrize(
    ("architecture", "options"),
    [("convnet(8, 8)", {"alpha": 0.9}), ("convnet(8, 16)", {"alpha": 1.0}), ("resnet18", {"alpha": 0.995})],
)
def test_a_width_that_changes_nothing_is_told(architecture: str, options: dict[str, Any]) -> None:
    with pytest.raises(NoEffect, match="width changes nothing") as caught:
        scale_width(make(architecture), WidthOptions(**options), seed=0)
    assert caught.value.code == "N26"


@pytest.mark.parametrize(("architecture", "inherit"), [("resnet18", False), ("convnet(8, 8)", True)])
def test_what_cannot_be_made_wider_is_told(architecture: str, inherit: bool) -> None:
    with pytest.raises(ConfigError, match="cannot be made wider") as caught:
        scale_width(make(architecture), WidthOptions(alpha=1.25, inherit=inherit), seed=0)
    assert (caught.value.code, caught.value.exit_code) == ("C84", 2)


@pytest.mark.parametrize(("epochs", "asked"), [(None, [("fit", None)]), (2, [("fit", 2)]), (0, [])])
def test_training_is_left_to_the_context(epochs: int | None, asked: list[Any]) -> None:
    context = FakeContext()
    width(make("convnet(16, 16)"), WidthOptions(epochs=epochs), context)  # type: ignore[arg-type]
    assert context.asked == asked


# ------------------------------------------------------------------------------------------------------- depth


def test_the_published_count_of_system_2() -> None:
    context = FakeContext()
    model = make("shufflenet_v2_x0_5", 64, 9)
    made = truncate(model, TruncateOptions(after="stage3"), context)  # type: ignore[arg-type]
    counted = cost(made.module, made.input)
    assert (counted.params_total, counted.macs) == (54_057, 1_975_392)
    assert context.asked == [("finetune", None)]
    kept, own = made.module.state_dict(), model.module.state_dict()
    assert torch.equal(kept["features.stage3.0.branch1.0.weight"], own["stage3.0.branch1.0.weight"])


def test_cutting_nothing_off_is_told() -> None:
    with pytest.raises(NoEffect, match="cuts nothing off") as caught:
        truncate(make("convnet(4, 8)"), TruncateOptions(after="block2"), FakeContext())  # type: ignore[arg-type]
    assert caught.value.code == "N27"


def test_an_unknown_part_is_told() -> None:
    with pytest.raises(ConfigError, match="no part") as caught:
        truncate(make("convnet(4, 8)"), TruncateOptions(after="stage9"), FakeContext())  # type: ignore[arg-type]
    assert caught.value.code == "C44"


@pytest.mark.parametrize("options", [{"alpha": 0}, {"alpha": 3}, {"round_to": 0}, {"epochs": -1}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        WidthOptions(**options)


def test_the_resolution_is_no_step_of_a_plan() -> None:
    with pytest.raises(ConfigError, match="belongs to the run, not to a plan") as caught:
        check_plan("resolution(20) > distill")
    assert (caught.value.code, caught.value.exit_code) == ("C85", 2)
    assert "--set data.size=SIZE --weights RUN" in caught.value.fix
