"""Making models by name: structure, names, seeds, errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgewise.bundle import InputSpec
from edgewise.errors import ConfigError, UnavailableError
from edgewise.models import create_model, default_input, list_models, rebuild
from edgewise.models.convnet import FAMILIES

RGB = InputSpec(32, 32)
GRAY = InputSpec(32, 32, 1, mean=(0.5,), std=(0.5,))
LABELS = ("a", "b", "c")


def make(architecture: str, input: InputSpec = RGB, **options: Any) -> Any:
    return create_model(architecture, labels=LABELS, input=input, **options)


def test_importing_the_room_imports_no_torch() -> None:
    code = "import sys, edgewise.models; print(sorted({'torch', 'timm', 'torchvision'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_convnet_is_made_of_the_blocks_it_says() -> None:
    net = make("convnet(4, 6, dropout=0.2)").module
    kinds = [type(part).__name__ for part in net.modules() if next(part.children(), None) is None]
    assert kinds == [
        *("Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"),
        *("Conv2d", "BatchNorm2d", "ReLU"),
        *("AdaptiveAvgPool2d", "Flatten", "Dropout", "Linear"),
    ]
    conv = net.block1.conv
    assert (conv.kernel_size, conv.padding, conv.bias is not None) == ((3, 3), (1, 1), True)
    assert net.dropout.p == 0.2


def test_flatnet_is_made_of_the_blocks_it_says() -> None:
    net = make("flatnet(16, 32, 48, hidden=128, dropout=0.3)", InputSpec(48, 48)).module
    kinds = [type(part).__name__ for part in net.modules() if next(part.children(), None) is None]
    assert kinds == ["Conv2d", "ReLU", "BatchNorm2d", "MaxPool2d"] * 3 + [
        "Flatten",
        "Linear",
        "ReLU",
        "Dropout",
        "Linear",
    ]
    assert (net.hidden.in_features, net.hidden.out_features, net.dropout.p) == (48 * 6 * 6, 128, 0.3)


@pytest.mark.parametrize(
    "architecture",
    ["convnet(4)", "flatnet(4)", "dscnn(4, 8)", "mobilenetv3_small_050", "shufflenet_v2_x0_5", "torchvision/resnet18"],
)
@pytest.mark.parametrize("input", [RGB, GRAY], ids=["rgb", "gray"])
def test_any_model_takes_any_classes_and_one_or_three_channels(architecture: str, input: InputSpec) -> None:
    model = make(architecture, input)
    assert not model.module.training
    with torch.no_grad():
        assert model.module(torch.zeros(2, input.channels, 32, 32)).shape == (2, 3)


def test_a_gray_torchvision_net_sees_what_the_colour_net_sees_of_a_gray_image() -> None:
    colour, gray = make("shufflenet_v2_x0_5", seed=3), make("shufflenet_v2_x0_5", GRAY, seed=3)
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(gray.module(image), colour.module(image.expand(2, 3, 32, 32)))


def test_the_seed_decides_the_weights_and_the_global_random_state_is_untouched() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (make("mobilenetv3_small_050", seed=seed).module.state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_no_branch_of_a_timm_resnet_starts_at_zero() -> None:
    net = make("resnet18").module
    assert all(bool((layer.weight != 0).all()) for layer in net.modules() if isinstance(layer, nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("convnet(4,8,dropout=.1)", "convnet(4, 8, dropout=0.1)"),
        ("torchvision/resnet18", "torchvision/resnet18"),
        ("truncate(torchvision/shufflenet_v2_x0_5,stage3)", "truncate(torchvision/shufflenet_v2_x0_5, stage3)"),
        ('truncate(mobilenetv3_small_050, "blocks.3")', "truncate(mobilenetv3_small_050, 'blocks.3')"),
    ],
)
def test_the_architecture_has_one_written_form_that_makes_the_same_model(written: str, stored: str) -> None:
    model = make(written)
    assert model.architecture == stored
    again = make(stored)
    assert again.architecture == stored
    assert again.module.state_dict().keys() == model.module.state_dict().keys()


def test_the_library_prefix_selects_the_library() -> None:
    assert type(make("timm/resnet18").module).__module__.startswith("timm.")
    assert type(make("resnet18").module).__module__.startswith("timm.")
    assert type(make("torchvision/resnet18").module).__module__.startswith("torchvision.")


@pytest.mark.parametrize(
    ("architecture", "offered"),
    [
        ("mobilnetv3_small_050", "mobilenetv3_small_050"),
        ("convent(8)", "convnet"),
        ("torchvision/shuflenet_v2_x0_5", "shufflenet_v2_x0_5"),
        ("timm/shufflenet_v2_x0_5", ""),
        ("mobilenetv3_small_050.nonsense", "mobilenetv3_small_050"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest_ones(architecture: str, offered: str) -> None:
    with pytest.raises(ConfigError, match="unknown model") as caught:
        make(architecture)
    assert (caught.value.code, caught.value.exit_code) == ("C40", 2)
    assert offered in caught.value.why


@pytest.mark.parametrize(
    ("architecture", "told"),
    [
        ("convnet", "1 to 16 widths"),
        ("convnet(0)", "1 to 16 widths"),
        ("convnet(8.5)", "1 to 16 widths"),
        ("convnet(True)", "1 to 16 widths"),
        ("convnet(8, droput=0.1)", 'did you mean "dropout"'),
        ("convnet(8, dropout=1)", "dropout = 1 is out of range"),
        ("convnet(8, hidden=8)", 'unknown argument "hidden"'),
        ("flatnet(8, hidden=0)", "hidden = 0 is out of range"),
        ("dscnn(8, 8, strides=(1, 3))", "strides = (1, 3) is out of range"),
        ("dscnn(8, 8, strides=(1, True))", "strides = (1, True) is out of range"),
        ("dscnn(8, 8, strides=2)", "strides = 2 is out of range"),
        ("dscnn(8, 8, strides=(1, 2, 1))", "strides has 3 values for 2 widths"),
        ("resnet18(3)", "library models take no arguments"),
        ("truncate(resnet18)", "truncate takes a model and the name"),
    ],
)
def test_arguments_that_make_no_sense(architecture: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(architecture)
    assert caught.value.code == "C41"
    assert told in str(caught.value)


def test_one_label_is_no_classifier() -> None:
    with pytest.raises(ConfigError, match="at least two classes, not 1"):
        create_model("convnet(4)", labels=["only"], input=RGB)


def test_an_input_that_cannot_be_halved_often_enough() -> None:
    with pytest.raises(ConfigError, match="3 poolings need height and width to be multiples of 8") as caught:
        make("flatnet(4, 4, 4)", InputSpec(36, 48))
    assert caught.value.code == "C43"
    assert "40" in caught.value.fix or "32" in caught.value.fix


def test_an_input_the_net_cannot_take_names_the_one_it_was_made_for() -> None:
    with pytest.raises(ConfigError, match="cannot take 32 x 32 images of 3 channel") as caught:
        make("torchvision/vit_b_32")
    assert (caught.value.code, caught.value.fix) == ("C43", "set data.size to 224")


def test_default_input_is_that_of_the_pretrained_weights() -> None:
    assert default_input("convnet(8)") is None
    spec = default_input("mobilenetv3_small_050")
    assert spec is not None
    assert (spec.shape, spec.interpolation, spec.mean) == ((224, 224, 3), "bicubic", (0.485, 0.456, 0.406))
    spec = default_input("truncate(torchvision/inception_v3, Conv2d_1a_3x3)")
    assert spec is not None
    assert (spec.shape, spec.interpolation, spec.std) == ((299, 299, 3), "bilinear", (0.229, 0.224, 0.225))


def test_list_models_by_substring_and_by_glob() -> None:
    found = {entry.name: entry.family for entry in list_models("shufflenet")}
    assert found["shufflenet_v2_x0_5"] == "torchvision"
    assert {entry.family for entry in list_models("mobilenetv3_small_0?0")} == {"timm"}
    assert {entry.name for entry in list_models("*resnet18")} >= {"resnet18", "torchvision/resnet18"}
    own = [entry for entry in list_models() if entry.family == "convnet"]
    assert {entry.name.partition("(")[0] for entry in own} == set(FAMILIES)
    for entry in own:
        assert make(entry.name, InputSpec(48, 48)).architecture == entry.name
    assert list_models("no such thing") == []


def test_copy_shares_nothing() -> None:
    model = make("convnet(4)")
    twin = model.copy()
    with torch.no_grad():
        twin.module.classifier.weight.zero_()
    assert bool(model.module.classifier.weight.abs().sum() > 0)


def test_rebuild_without_edits_is_the_net_of_that_seed() -> None:
    model = make("convnet(4, 8)", seed=1)
    again = rebuild(model, 7).module.state_dict()
    expected = make("convnet(4, 8)", seed=7).module.state_dict()
    assert all(torch.equal(again[name], expected[name]) for name in expected)


class TestPretrained:
    """With the library's downloads replaced: nothing here may reach for the network."""

    def test_our_own_families_have_none(self) -> None:
        with pytest.raises(ConfigError, match="no pretrained weights for this family") as caught:
            make("convnet(4)", pretrained=True)
        assert caught.value.code == "C42"

    def test_a_timm_model_without_any(self) -> None:
        with pytest.raises(ConfigError, match="timm has no pretrained weights for coatnet_0_224"):
            make("coatnet_0_224", pretrained=True)

    def test_torchvision_weights_are_copied_where_shapes_agree(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        import torchvision

        source = torchvision.models.shufflenet_v2_x0_5(weights=None).state_dict()
        checkpoints = tmp_path / "hub" / "checkpoints"
        checkpoints.mkdir(parents=True)
        url = torchvision.models.get_model_weights("shufflenet_v2_x0_5").DEFAULT.url
        torch.save(source, checkpoints / url.rpartition("/")[2])
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
        with caplog.at_level("INFO", "edgewise"):
            state = make("shufflenet_v2_x0_5", pretrained=True).module.state_dict()
        differing = [name for name in source if source[name].shape != state[name].shape]
        assert differing == ["fc.weight", "fc.bias"]
        assert all(torch.equal(source[name], state[name]) for name in source if name not in differing)
        assert "left fresh: fc.weight, fc.bias" in caplog.text

    @pytest.mark.parametrize("architecture", ["mobilenetv3_small_050", "shufflenet_v2_x0_5"])
    def test_weights_that_cannot_be_fetched(self, architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
        import timm
        import torchvision

        def offline(*_: object, **__: object) -> None:
            raise FileNotFoundError("no connection")

        monkeypatch.setattr("edgewise.models.route.require", lambda *_: None)
        monkeypatch.setattr(timm, "create_model", offline)
        monkeypatch.setattr(torchvision.models.ShuffleNet_V2_X0_5_Weights, "get_state_dict", offline)
        with pytest.raises(UnavailableError, match="the pretrained weights cannot be fetched") as caught:
            make(architecture, pretrained=True)
        assert (caught.value.code, caught.value.exit_code, caught.value.why) == ("E20", 4, "no connection")


@pytest.mark.slow
def test_convnet_exports_its_pooling_as_a_plain_average(tmp_path: Path) -> None:
    import onnx

    model = make("convnet(4, 8)")
    path = tmp_path / "net.onnx"
    torch.onnx.export(model.module, (torch.zeros(2, 3, 32, 32),), str(path), dynamo=True, verbose=False)
    operators = {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    assert operators & {"ReduceMean", "GlobalAveragePool"}
    assert not operators & {"AveragePool", "Gather", "Loop", "If"}


def test_convnet_computes_what_numpy_computes() -> None:
    """One block, no padding trouble: the mean over the map of relu(conv), through the classifier."""
    net = make("convnet(2)", InputSpec(8, 8)).module
    image = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    weight, bias = (tensor.detach().numpy() for tensor in (net.block1.conv.weight, net.block1.conv.bias))
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    maps = np.einsum("chwij,ocij->ohw", windows, weight) + bias[:, None, None]
    maps = np.maximum(maps / np.sqrt(1 + 1e-5), 0)
    expected = maps.mean((1, 2)) @ net.classifier.weight.detach().numpy().T + net.classifier.bias.detach().numpy()
    with torch.no_grad():
        found = net(torch.from_numpy(image)[None])[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
