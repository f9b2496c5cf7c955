"""Weights of others: by name, behind a prefix, by order; and nothing by guessing."""

from __future__ import annotations

import copy
import json
import os
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgewise.bundle import InputSpec
from edgewise.errors import ConfigError, UntrustedError
from edgewise.models import Model, create_model, save_model
from edgewise.models.weights import load_weights, transfer

SPEC = InputSpec(32, 32)
State = dict[str, torch.Tensor]


def make(architecture: str, classes: int = 3, seed: int = 0, input: InputSpec = SPEC) -> Model:
    model = create_model(architecture, labels=[f"class {i}" for i in range(classes)], input=input, seed=seed)
    if seed:  # statistics that are not those of a fresh net
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in model.module.state_dict().items():
            if "running" in name:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


def assert_copied(model: Model, state: State, names: dict[str, str] | None = None) -> None:
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, state[(names or {}).get(name, name)]), name


def renamed(state: State, words: dict[str, str]) -> State:
    """The state under other names: each part of a name is looked up."""
    return {".".join(words.get(part, part) for part in name.split(".")): tensor for name, tensor in state.items()}


FOREIGN = {"conv": "konv", "norm": "normierung", "classifier": "ausgang", "block1": "b1", "block2": "b2"}


# ---- By name -------------------------------------------------------------------------------------------------------


def test_by_name_what_fits_is_copied_and_the_rest_is_named() -> None:
    source = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 10)).state_dict()
    target = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    fresh = target[1].weight.clone()
    done = transfer(target, source)
    assert (done.how, done.copied) == ("name", ("0.weight", "0.bias"))
    assert done.fresh == done.unused == ("1.weight", "1.bias")
    assert done.share == 15 / 23
    assert torch.equal(target[0].weight, source["0.weight"])
    assert torch.equal(target[1].weight, fresh)
    line = "65.2 % of the model's elements by name; 2 tensors copied; left fresh: 1.weight, 1.bias"
    assert str(done) == line + "; not used of the file: 1.weight, 1.bias"


def test_a_counter_that_is_missing_counts_for_nothing() -> None:
    model, source = make("convnet(4, 8)"), make("convnet(4, 8)", seed=1)
    state = {name: value for name, value in source.module.state_dict().items() if "tracked" not in name}
    done = transfer(model.module, state)
    assert (done.share, done.fresh, done.unused) == (1.0, (), ())


def test_what_agrees_in_little_is_refused_not_half_taken() -> None:
    """Of one family in two widths all names agree, and some shapes by accident."""
    state = make("mobilenetv3_small_100").module.state_dict()
    model = make("mobilenetv3_small_050")
    before = copy.deepcopy(model.module.state_dict())
    with pytest.raises(ConfigError, match="do not fit the model") as caught:
        transfer(model.module, state)
    assert caught.value.code == "C42"
    assert re.search(r"by name [1-9]\d? % of the backbone agrees; by order: at place 7 ", caught.value.why)
    assert_copied(model, before)


def test_a_tensor_of_another_type_does_not_fit() -> None:
    state = make("convnet(4, 8)", seed=1).module.state_dict()
    state["block1.conv.bias"] = torch.zeros(4, dtype=torch.int64)
    state["block2.conv.bias"] = torch.zeros(8, dtype=torch.complex64)
    state["block2.norm.bias"] = torch.zeros(8, device="meta")
    state["block1.norm.bias"] = torch.ones(4).to_sparse()
    done = transfer(make("convnet(4, 8)").module, state)
    assert done.fresh == ("block1.conv.bias", "block1.norm.bias", "block2.conv.bias", "block2.norm.bias")


def test_half_precision_is_read_as_float32() -> None:
    model, state = make("convnet(4, 8)"), make("convnet(4, 8)", seed=1).module.state_dict()
    transfer(
        model.module, {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    )
    assert torch.equal(model.module.block1.conv.weight, state["block1.conv.weight"].half().float())
    assert model.module.block1.conv.weight.dtype == torch.float32


def test_gray_images_get_the_sum_over_the_colours() -> None:
    gray = InputSpec(32, 32, 1, mean=(0.5,), std=(0.5,))
    model, colour = make("mobilenetv3_small_050", input=gray), make("mobilenetv3_small_050", seed=1)
    done = transfer(model.module, colour.module.state_dict())
    assert (done.share, done.note) == (1.0, "conv_stem.weight: red, green and blue summed up for gray images")
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.module(image), colour.module(image.expand(1, 3, 32, 32)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_before_anything_changes(value: float) -> None:
    model, state = make("convnet(4, 8)"), make("convnet(4, 8)", seed=1).module.state_dict()
    before = copy.deepcopy(model.module.state_dict())
    state["block2.conv.weight"][0, 0, 0, 0] = value
    with pytest.raises(UntrustedError, match="not finite") as caught:
        transfer(model.module, state)
    assert caught.value.where == {"tensor": "block2.conv.weight"}
    assert_copied(model, before)


# ---- Behind a prefix -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "state_dict.model.module.", "encoder_q."])
def test_a_prefix_of_the_file_is_taken_off(prefix: str) -> None:
    model, state = make("convnet(4, 8)"), make("convnet(4, 8)", seed=1).module.state_dict()
    done = transfer(model.module, {prefix + name: tensor for name, tensor in state.items()})
    assert (done.how, done.share, done.note) == ("prefix", 1.0, f'prefix "{prefix}"')
    assert_copied(model, state)


def test_a_backbone_with_another_head_is_found_behind_its_prefix() -> None:
    model, state = make("convnet(4, 8)"), make("convnet(4, 8)", seed=1).module.state_dict()
    backbone = {f"backbone.{name}": tensor for name, tensor in state.items() if "classifier" not in name}
    done = transfer(model.module, {**backbone, "projector.0.weight": torch.zeros(2, 8)})
    assert (done.how, done.fresh) == ("prefix", ("classifier.weight", "classifier.bias"))
    assert done.unused == ("projector.0.weight",)
    assert torch.equal(model.module.block2.conv.weight, state["block2.conv.weight"])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_whole_net_goes_into_a_cut_one(prefix: str) -> None:
    model, whole = make("truncate(shufflenet_v2_x0_5, stage3)"), make("shufflenet_v2_x0_5", 1000, seed=1)
    state = {prefix + name: tensor for name, tensor in whole.module.state_dict().items()}
    done = transfer(model.module, state)
    assert (done.how, done.fresh) == ("prefix", ("classifier.weight", "classifier.bias"))
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        net = whole.module
        expected = net.stage3(net.stage2(net.maxpool(net.conv1(image))))
        assert torch.equal(model.module.features(image), expected)


def test_of_two_sets_of_weights_the_average_is_taken() -> None:
    model, state = make("convnet(4, 8)"), make("convnet(4, 8)", seed=1).module.state_dict()
    last = {f"model.{name}": tensor * 0 for name, tensor in state.items()}
    done = transfer(model.module, {**last, **{f"ema_model.{name}": tensor for name, tensor in state.items()}})
    assert done.note == 'prefix "ema_model."'
    assert_copied(model, state)


def test_two_sets_of_weights_that_nothing_tells_apart_are_refused() -> None:
    state = make("convnet(4, 8)", seed=1).module.state_dict()
    both = {f"{who}.{name}": tensor for who in ("student", "teacher") for name, tensor in state.items()}
    with pytest.raises(ConfigError, match="several sets of weights that fit equally well") as caught:
        transfer(make("convnet(4, 8)").module, both)
    assert (caught.value.code, caught.value.why) == ("C61", "behind the prefixes student., teacher.")


# ---- By order and shape --------------------------------------------------------------------------------------------


def test_by_order_each_tensor_lands_in_its_place() -> None:
    model, source = make("convnet(4, 8)"), make("convnet(4, 8)", seed=1)
    done = transfer(model.module, renamed(source.module.state_dict(), FOREIGN))
    assert (done.how, done.share, done.fresh, done.unused) == ("order and shape", 1.0, (), ())
    assert_copied(model, source.module.state_dict())


def test_by_order_another_number_of_classes_leaves_the_classifier_fresh() -> None:
    model, state = make("convnet(4, 8)"), make("convnet(4, 8)", 10, seed=1).module.state_dict()
    done = transfer(model.module, renamed(state, FOREIGN))
    assert (done.how, done.fresh) == ("order and shape", ("classifier.weight", "classifier.bias"))
    assert done.unused == ("ausgang.weight", "ausgang.bias")
    assert torch.equal(model.module.block2.norm.running_var, state["block2.norm.running_var"])


def test_by_order_a_file_without_a_classifier_fits() -> None:
    model, state = make("convnet(4, 8)"), make("convnet(4, 8)", seed=1).module.state_dict()
    headless = {name: tensor for name, tensor in renamed(state, FOREIGN).items() if "ausgang" not in name}
    done = transfer(model.module, headless)
    assert (done.how, done.fresh, done.unused) == ("order and shape", ("classifier.weight", "classifier.bias"), ())


def uniform(*names: str) -> nn.Sequential:
    """Linear layers of one shape under given names, and a classifier."""
    layers = OrderedDict((name, nn.Linear(4, 4)) for name in names)
    return nn.Sequential(OrderedDict(**layers, classifier=nn.Linear(4, 2)))


@pytest.mark.parametrize(
    ("own", "theirs", "told"),
    [
        (("fc1", "fc2"), ("lin_1", "lin_2"), ""),
        (("fc9", "fc10"), ("lin", "lin_1"), ""),
        (("query", "value"), ("Query_", "Value_"), ""),
        (("fc1", "fc2"), ("lin_2", "lin_1"), '"lin_2" and "lin_1" have the same shapes'),
        (("fc1", "fc2"), ("lin10", "lin9"), '"lin10" and "lin9" have the same shapes'),
        (("fc1", "fc2"), ("shortcut", "main"), '"shortcut" and "main" have the same shapes'),
        (("query", "value"), ("lin_1", "lin_2"), 'do not tell which is "query" and which is "value"'),
        (("query", "value"), ("Value_", "Query_"), 'do not tell which is "query" and which is "value"'),
    ],
)
def test_layers_of_one_shape_must_be_told_apart_by_their_names(
    own: tuple[str, ...], theirs: tuple[str, ...], told: str
) -> None:
    target, source = uniform(*own), uniform(*theirs)
    state = renamed(source.state_dict(), {"classifier": "out"})
    if not told:
        assert transfer(target, state).share == 1.0
        assert torch.equal(target[0].weight, source[0].weight)
        return
    with pytest.raises(ConfigError, match="do not fit the model") as caught:
        transfer(target, state)
    assert told in caught.value.why


def test_by_order_a_branch_that_could_stand_elsewhere_is_refused() -> None:
    """resnet50's shortcut has the shape of the last convolution beside it: foreign names must say which is which."""
    state = make("torchvision/resnet50", seed=1).module.state_dict()
    words = {"conv1": "c1", "conv2": "c2", "conv3": "c3", "bn1": "n1", "bn2": "n2", "bn3": "n3", "fc": "out"}
    kept = renamed(state, {**words, **{f"layer{n}": f"res{n}" for n in (1, 2, 3, 4)}})
    model = make("torchvision/resnet50")
    with pytest.raises(ConfigError) as caught:
        transfer(model.module, kept)
    assert '"res1.0.c3" and "res1.0.downsample.0" have the same shapes' in caught.value.why
    said = renamed(state, {"fc": "out", **{f"layer{n}": f"res{n}" for n in (1, 2, 3, 4)}, "conv1": "conv1"})
    done = transfer(model.module, {f"x{name}": tensor for name, tensor in said.items()})
    assert (done.how, done.share) == ("order and shape", 1.0)
    assert_copied(model, state)


def test_by_order_kinds_must_agree() -> None:
    state = renamed(make("convnet(4, 8)").module.state_dict(), FOREIGN)
    swap = {"running_mean": "running_var", "running_var": "running_mean"}
    with pytest.raises(ConfigError) as caught:
        transfer(make("convnet(4, 8)").module, renamed(state, swap))
    assert "at place 2" in caught.value.why
    assert "weight, bias, running_var, running_mean" in caught.value.why


def test_by_order_shapes_must_agree_at_every_place() -> None:
    state = renamed(make("convnet(4, 9)").module.state_dict(), FOREIGN)
    with pytest.raises(ConfigError) as caught:
        transfer(make("convnet(4, 8)").module, state)
    assert 'at place 3 the file has "b2.konv.weight" [9, 4, 3, 3], the model "block2.conv.weight" [8, 4, 3, 3]' in (
        caught.value.why
    )


def test_by_order_layers_must_begin_at_the_same_places() -> None:
    state = renamed(make("convnet(4, 8)").module.state_dict(), FOREIGN)
    glued = {name.replace("b1.normierung", "b1.konv"): tensor for name, tensor in state.items()}
    with pytest.raises(ConfigError, match="do not fit the model"):
        transfer(make("convnet(4, 8)").module, glued)


@settings(max_examples=30, deadline=None)
@given(
    widths=st.lists(st.integers(2, 6), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
    classes=st.integers(2, 4),
)
def test_shuffled_layers_are_never_matched_wrongly(widths: list[int], order: Any, classes: int) -> None:
    """Whatever order the file has: either every tensor lands where it belongs, or the file is refused."""
    architecture = f"convnet({', '.join(map(str, widths))})"
    model, source = make(architecture, classes), make(architecture, classes, seed=1)
    state = source.module.state_dict()
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in state))
    order.shuffle(layers)
    words = {"conv": "c", "norm": "n", "classifier": "out", **{f"block{n}": f"stage_{n}" for n in range(1, 5)}}
    shuffled = {name: state[name] for layer in layers for name in state if name.rpartition(".")[0] == layer}
    try:
        transfer(model.module, renamed(shuffled, words))
    except ConfigError:
        assert layers != list(dict.fromkeys(name.rpartition(".")[0] for name in state))
    else:
        assert_copied(model, state)


# ---- Files and folders ---------------------------------------------------------------------------------------------


def save_torch(state: State, path: Path) -> None:
    torch.save(state, path)


def save_legacy(state: State, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def save_safetensors(state: State, path: Path) -> None:
    safetensors.torch.save_file(state, path)


@pytest.mark.parametrize("save", [save_torch, save_legacy, save_safetensors])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w"])
def test_files_are_known_by_what_they_hold(save: Any, name: str, tmp_path: Path) -> None:
    model, state = make("convnet(4, 8)"), make("convnet(4, 8)", seed=1).module.state_dict()
    path = tmp_path / name
    save(state, path)
    if name.endswith("safetensors") and save is not save_safetensors:
        with pytest.raises(UntrustedError) as caught:
            load_weights(model, path)
        assert caught.value.code == "U30"
        return
    assert load_weights(model, path).share == 1.0
    assert_copied(model, state)


@pytest.mark.parametrize(
    ("nest", "inside"),
    [
        (lambda state, _: {"state_dict": state, "epoch": 3}, "state_dict"),
        (
            lambda state, _: {"model": {"state_dict": state}, "optimizer": {"state": {0: {"step": torch.zeros(1)}}}},
            None,
        ),
        (lambda state, last: {"state_dict": last, "state_dict_ema": state, "arch": "x"}, "state_dict_ema"),
        (lambda state, last: {"model": last, "model_ema": state, "args": {"lr": 1.0}}, "model_ema"),
        (lambda state, last: {"model": last, "ema": {"module": state, "decay": 0.9}}, "ema.module"),
        (lambda state, _: {"model": state, "ema": None, "lr": torch.tensor(0.1)}, "model"),
        (lambda state, _: {"resnet": state}, "resnet"),
    ],
)
def test_checkpoints_are_opened_to_their_weights(nest: Any, inside: str | None, tmp_path: Path) -> None:
    model, state = make("convnet(4, 8)"), make("convnet(4, 8)", seed=1).module.state_dict()
    last = {name: tensor * 0 for name, tensor in state.items()}
    torch.save(nest(dict(state), last), tmp_path / "w.pth")
    done = load_weights(model, tmp_path / "w.pth")
    assert done.note == f'read from "{inside or "model.state_dict"}"'
    assert_copied(model, state)


def test_a_checkpoint_with_two_unknown_dicts_is_a_question(tmp_path: Path) -> None:
    state = dict(make("convnet(4, 8)").module.state_dict())
    torch.save({"left": state, "right": state}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="several sets of weights") as caught:
        load_weights(make("convnet(4, 8)"), tmp_path / "w.pth")
    assert (caught.value.code, caught.value.why) == ("C60", "under the keys left, right")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened") as caught:
        load_weights(make("convnet(4, 8)"), tmp_path / "nothing.pth")
    assert (caught.value.code, caught.value.why) == ("C60", "No such file or directory")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pth")
    with pytest.raises(ConfigError) as caught:
        load_weights(make("convnet(4, 8)"), tmp_path / "w.pth")
    assert (caught.value.code, caught.value.why) == ("C60", "a pipe or device, not a file")


def test_a_misfit_names_the_file_and_the_model(tmp_path: Path) -> None:
    save_torch(make("convnet(5, 9)").module.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ConfigError) as caught:
        load_weights(make("convnet(4, 8)"), tmp_path / "w.pth")
    assert caught.value.where == {"weights": str(tmp_path / "w.pth"), "model": "convnet(4, 8)"}


@pytest.mark.parametrize("run", [False, True])
@pytest.mark.parametrize("same", [False, True])
def test_a_model_folder_or_run_gives_its_backbone_and_its_classifier_only_to_the_same_classes(
    run: bool, same: bool, tmp_path: Path
) -> None:
    fruit = create_model("convnet(4, 8)", labels=("fig", "kiwi", "plum"), input=SPEC, seed=1)
    save_model(fruit, tmp_path / "model" / "base")
    (tmp_path / "run.json").write_text("{}")
    labels = ("fig", "kiwi", "plum") if same else ("apple", "cherry", "tomato")
    model = create_model("convnet(4, 8)", labels=labels, input=SPEC, seed=2)
    fresh = model.module.classifier.weight.clone()
    done = load_weights(model, tmp_path if run else tmp_path / "model" / "base")
    assert torch.equal(model.module.block2.conv.weight, fruit.module.block2.conv.weight)
    assert torch.equal(model.module.classifier.weight, fruit.module.classifier.weight if same else fresh)
    assert done.fresh == (() if same else ("classifier.weight", "classifier.bias"))
    assert ("its classes are others" in done.note) is not same


def test_a_pruned_net_does_not_go_into_the_full_one(tmp_path: Path) -> None:
    from edgewise.compress.prune import PruneOptions, remove_channels

    save_model(remove_channels(make("convnet(8, 8)"), PruneOptions(ratio=0.5)), tmp_path)
    with pytest.raises(ConfigError, match="do not fit the model"):
        load_weights(make("convnet(8, 8)"), tmp_path)


def test_the_record_goes_into_json(tmp_path: Path) -> None:
    save_torch(make("convnet(4, 8)", 10).module.state_dict(), tmp_path / "w.pth")
    record = load_weights(make("convnet(4, 8)"), tmp_path / "w.pth").as_dict()
    assert json.loads(json.dumps(record)) == record
    assert (record["how"], record["copied"], record["fresh"]) == ("name", 14, ["classifier.weight", "classifier.bias"])
