"""Quantization-aware training: the net is trained on while it computes as its int8 file will.

Weights lie on a grid of whole steps for each output channel, batch normalisation folded into them; values between
layers are rounded to 256 levels of a step for the whole tensor (Jacob et al. 2018, arXiv:1712.05877). Steps begin where
post-training quantization would leave them, and are learnt (Esser et al. 2020, LSQ, arXiv:1902.08153) or follow moving
averages of the extremes. The model stays an ordinary one: the ranges stand in its structure, for the exporter.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from edgewise.errors import NoEffect
from edgewise.recipe import Rate, Strict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from edgewise.compress.base import Context
    from edgewise.compress.simulate import Layout
    from edgewise.models import Edit, Model

SAMPLE_BATCH = 64
SETTLING = 0.75
"""Share of the epochs for which norms and moving ranges follow the batches by themselves."""
EVERY = 2**62
"""More images than any training sees."""


class QatOptions(Strict):
    """How int8 is simulated while the net is trained on."""

    scheme: Literal["u8s8-rr", "u8s8", "s8s8"] = "u8s8-rr"
    """The int8 arithmetic that is trained for, by its name at export. u8s8-rr: weights of seven bits, which no CPU can
    make overflow; u8s8: eight bits, right on ARM and on x86 with VNNI; s8s8: symmetric activations too."""
    ranges: Literal["learned", "ema"] = "learned"
    """How the steps of activations are found: trained with the weights, or by a moving average of the smallest and
    largest values, as long as `follow` says."""
    start: Literal["mse", "minmax", "percentile", "entropy"] = "mse"
    """Which post-training method gives the ranges to begin with."""
    sample: Annotated[int, Field(ge=1)] = 256
    """Training images, spread evenly over the classes, that the first ranges are taken from."""
    follow: Annotated[float, Field(ge=0, le=10_000)] | None = None
    """Epochs for which norms take the statistics of each batch, and with ema ranges its extremes; then they stay, and
    the weights settle in them. Default: three quarters of `epochs`; all along where that is not given."""
    epochs: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Epochs of training; default: the recipe's `finetune_epochs`; 0 leaves the ranges as post-training quantization
    finds them."""
    lr: Rate | None = None
    """Peak learning rate of that training; default: the recipe's `finetune_lr`."""


def qat(model: Model, options: QatOptions, context: Context) -> Model:
    """Train a copy of the model on as int8 arithmetic will run it.

    Weights that `sparsify` made zero stay zero. Dropout layers act as before. Batch norms that follow a layer are
    folded into it; their statistics follow the batches for most of the training and stay for the rest. Other norms
    train on.

    Raises:
        NoEffect: there is no layer that int8 could be trained for (Q21).
        ConfigError: torch.fx cannot follow the net (Q20).
    """
    from edgewise.compress.simulate import insert_points, layout

    work = dataclasses.replace(model, module=copy.deepcopy(model.module))
    found = layout(work)
    if not found.layers:
        raise NoEffect(
            "qat found nothing to do",
            code="Q21",
            where={"model": model.architecture},
            why="there are no convolutions or linear layers that it can train for int8",
            fix="leave the step out of the plan",
        )
    for name, why in found.left.items():
        context.say(f"qat leaves {name} in float: {why}")
    follow = _images(options, context)
    _hold_layers(found, model, options, follow)
    insert_points(found.graph, _first_points(found, model, options, context, follow))
    trained = dataclasses.replace(model, module=found.graph)
    if options.epochs != 0:
        trained = context.finetune(trained, epochs=options.epochs, lr=options.lr)
    return _settled(model, found, trained.module, options)


def _images(options: QatOptions, context: Context) -> int:
    """How many training images norms and moving ranges follow."""
    epochs = SETTLING * options.epochs if options.follow is None and options.epochs else options.follow
    return EVERY if epochs is None else round(epochs * len(context.dataset.train))


def _hold_layers(found: Layout, model: Model, options: QatOptions, follow: int) -> None:
    """Put each layer with its norm on the grid that fits its folded weights best."""
    import torch
    from torch import nn

    from edgewise.compress.fake import OnInts
    from edgewise.compress.held import OnGrid, as_mask
    from edgewise.compress.levels import fit_grid
    from edgewise.compress.palettize import sparse_layers
    from edgewise.compress.simulate import SCHEMES

    bits, _ = SCHEMES[options.scheme]
    sparse = sparse_layers(model.structure)
    for name, norm_name in found.layers.items():
        layer = found.graph.get_submodule(name)
        norm = found.graph.get_submodule(norm_name) if norm_name else None
        held = OnInts(layer, norm, follow)
        with torch.no_grad():
            folded = held.folded()[0]
            rows = folded.reshape(len(folded), -1).numpy().copy()
        keep = rows != 0 if name in sparse else None
        held.grid = OnGrid(fit_grid(rows, bits, "integer", keep), as_mask(keep, layer))
        found.graph.set_submodule(name, held)
        if norm is not None:
            found.graph.set_submodule(norm_name, nn.Identity())


def _first_points(
    found: Layout, model: Model, options: QatOptions, context: Context, follow: int
) -> dict[str, nn.Module]:
    """The points with the ranges that post-training quantization would give them, from real training images."""
    from edgewise.compress.fake import OnSteps
    from edgewise.compress.palettize import spread_sample
    from edgewise.compress.ranges import METHODS, observe
    from edgewise.compress.simulate import SCHEMES, Settled, highest, input_point, pixel_steps

    images = spread_sample(context.dataset.train, options.sample)
    seen = observe(lambda: _values(found, model, images))
    signed = SCHEMES[options.scheme][1]
    points: dict[str, nn.Module] = {}
    for name in found.points:
        ends = METHODS[options.start](seen[name], symmetric=signed)
        learnt, most = options.ranges == "learned", highest(found, name)
        points[name] = OnSteps(ends, signed=signed, learnt=learnt, follow=follow, most=most)
    pixels = pixel_steps(model, options.scheme)
    if pixels is not None:  # the file takes the pixels as they are, and so does the simulation
        points[input_point(found)] = Settled(*pixels, signed=False)
    return points


def _values(found: Layout, model: Model, images: NDArray[np.uint8]) -> Iterator[dict[str, NDArray[np.float32]]]:
    """What stands at each point, batch by batch."""
    import torch
    from torch import fx

    from edgewise.train.feed import Pixels

    pixels = Pixels(model.input, torch.device("cpu"))
    wanted = set(found.points)

    class Noting(fx.Interpreter):
        values: dict[str, Any]

        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.name in wanted:
                self.values[n.name] = value.detach().numpy().copy()  # a ReLU in place may come next
            return value

    runner = Noting(found.graph.eval())
    with torch.no_grad():
        for start in range(0, len(images), SAMPLE_BATCH):
            runner.values = {}
            runner.run(pixels(images[start : start + SAMPLE_BATCH]))
            yield runner.values


def _settled(model: Model, found: Layout, trained: nn.Module, options: QatOptions) -> Model:
    """An ordinary model with the weights on their grids and neutral norms, and the ranges in its structure."""
    import torch

    from edgewise.compress.fake import OnInts, OnSteps, settle_layer
    from edgewise.compress.simulate import ROOM, Settled

    module = copy.deepcopy(model.module)
    edit: Edit = {"edit": "qat", "scheme": options.scheme, "layers": {}, "points": {}}
    trained = trained.cpu().eval()
    own = module.state_dict()
    with torch.no_grad():
        for name, value in trained.state_dict().items():  # norms that were not folded, and whatever else was trained
            if found.of_model(name) in own:
                own[found.of_model(name)].copy_(value)
    for name, norm_name in found.layers.items():
        held = trained.get_submodule(name)
        assert isinstance(held, OnInts)
        assert held.grid is not None
        with torch.no_grad():
            weight, bias = held.folded()
            weight = held.grid(weight)
        norm = module.get_submodule(found.of_model(norm_name)) if norm_name else None
        settle_layer(module.get_submodule(name), norm, weight, bias)
        edit["layers"][name] = held.grid.record()
    for name in found.points:
        part = trained.get_submodule(f"{ROOM}.{name}")
        assert isinstance(part, OnSteps | Settled)
        edit["points"][name] = list(part.steps() if isinstance(part, OnSteps) else (part.step, part.zero))
    return dataclasses.replace(model, module=module.eval(), structure=(*model.structure, edit))
