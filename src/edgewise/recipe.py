"""The recipe: one YAML file that says everything about a run.

Every key has a description, a range and a default; the command line, the docs and the error texts take them from here.
"""

from __future__ import annotations

import functools
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field

from edgewise.errors import ConfigError
from edgewise.keys import at_line, read_source, refused, unknown_key
from edgewise.plan import Call, format_plan, parse_plan
from edgewise.written import Lines, Written, read_written

M = TypeVar("M", bound=BaseModel)

Format = Literal["onnx", "packed", "openvino", "ncnn", "litert", "executorch"]
Precision = Literal["fp32", "fp16", "int8"]
Rate = Annotated[float, Field(gt=0, le=10)]
"""A peak learning rate."""
LOWEST_OPSET = 13
HIGHEST_OPSET = 20
"""What the TorchScript exporter writes."""
Scheme = Literal["auto", "u8s8", "u8s8-rr", "s8s8", "u8s8-qop", "u8s8-rr-qop", "s8s8-qop"]


class Strict(BaseModel):
    """Base of all option models: unknown keys are errors, values never change after reading.

    The docstring under a field is its description; see `meanings`. Pydantic could read them when a class is made, and
    build each validator then, but a mistyped flag should not wait for either.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


def _to_plan(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return " > ".join(str(_step(step)) for step in value)
    return value


def _step(step: Any) -> str:
    """One step of a plan written as a YAML list: ``distill``, ``"prune(0.7)"`` or ``{prune: {ratio: 0.7}}``."""
    if isinstance(step, Call | str):
        return str(step)
    if isinstance(step, Mapping) and len(step) == 1:
        ((name, options),) = step.items()
        return str(Call(str(name), (), {key: _tupled(value) for key, value in (options or {}).items()}))
    raise ValueError("a step is a name, a call, or one name with its options")


def _tupled(value: Any) -> Any:
    return tuple(_tupled(element) for element in value) if isinstance(value, list) else value


def _check_plan(text: str) -> str:
    try:
        return format_plan(parse_plan(text))
    except ConfigError as problem:
        raise ValueError(f"{problem.what}: {problem.why}") from problem


Plan = Annotated[str, pydantic.BeforeValidator(_to_plan), pydantic.AfterValidator(_check_plan)]
"""A plan in its one written form; `parse_plan` gives its steps."""


class CheckOptions(Strict):
    """From where on `edgewise data check` names an image or a class. Nothing is left out of a run for it."""

    blurry: Annotated[float, Field(ge=0, le=1)] = 0.1
    """An image is blurry below this share of the set's median sharpness (the variance of its Laplacian)."""
    dark: Annotated[float, Field(ge=0, le=255)] = 40.0
    """An image is dark when its mean luminance is below this, 0..255."""
    small_class: Annotated[int, Field(ge=1)] = 20
    """A class is too small below so many images."""


class DataOptions(Strict):
    """Where the images are and how they reach the model."""

    source: str
    """A folder (class folders, or train/val/test folders of class folders), a manifest (.csv or .jsonl with file_name,
    label and optionally split and group), or a built-in set: digits, fashion-mnist."""
    size: Annotated[int, Field(ge=8, le=1024)] | None = None
    """Side of the square the model sees, in pixels. Default: what the model was made for, else 128 (built-in sets bring
    their own)."""
    channels: Literal[1, 3] | None = None
    """1 for gray, 3 for RGB. Default: 3, but 1 for the gray built-in sets."""
    fit: Literal["squash", "crop", "pad"] = "squash"
    """How an image is brought to the square: both sides scaled, the middle cut out, or zeros added."""
    split: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of train, validation and test where the data brings no split."""
    limit_train: Annotated[int, Field(ge=2)] | None = None
    """Use at most so many training images, drawn by class with the seed."""
    limit_val: Annotated[int, Field(ge=2)] | None = None
    """Use at most so many validation images."""
    limit_test: Annotated[int, Field(ge=2)] | None = None
    """Use at most so many test images."""
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Largest share of undecodable files that is left out with a warning; above it the run stops."""
    min_per_class: Annotated[int, Field(ge=1)] = 1
    """Fewer images than this in a class is an error."""
    layout: Literal["auto", "classes", "splits"] = "auto"
    """Read the folder as class folders or as train/val/test folders; auto tells them apart and asks when it cannot."""
    duplicates: Literal["near", "exact", "off"] = "near"
    """Which copies are looked for: also resized, recompressed and slightly cropped ones, only identical files, or none.
    Copies stay on one side of a drawn split, are counted where a given split tears them apart, and are left out where
    they carry two labels. Built-in sets are compared by identical images only."""
    strict: bool = False
    """Stop with exit code 3 when copies lie in training and in another split, or under two labels."""
    read_seconds: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    """Longest time that reading one file may stand still; then it is named and the command ends."""
    check: CheckOptions = CheckOptions()
    """Limits of `edgewise data check`."""
    download: bool = False
    """Allow a built-in set to be fetched from the network."""

    @pydantic.field_validator("split")
    @classmethod
    def _sums_to_one(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) <= 0 or abs(sum(value) - 1) > 1e-6:
            raise ValueError("three positive shares that add up to 1")
        return value


# Since which version a key of `AugmentOptions` that is not given counts, and its value from there on.
_VERSIONS: dict[str, tuple[int, float]] = {
    "horizontal_flip": (1, 1),
    "vertical_flip": (1, 1),
    "rotation": (1, 15.0),
    "hue": (2, 0.05),
    "saturation": (2, 0.3),
    "brightness": (2, 0.2),
    "contrast": (2, 0.2),
    "blur": (3, 0.008),
    "noise": (3, 8.0),
}


class AugmentOptions(Strict):
    """How training images are changed at random, anew in each epoch; validation and test images never are."""

    version: Literal[0, 1, 2, 3] = 0
    """Ready-made values for the keys below that are left empty: 0 nothing; 1 flips and rotation; 2 adds hue,
    saturation, brightness and contrast; 3 adds blur and noise."""
    horizontal_flip: bool | None = None
    """Mirror every second image left to right. Default: from version 1; switch it off for digits and letters."""
    vertical_flip: bool | None = None
    """Turn every second image upside down. Default: from version 1; switch it off for faces and all that has an up."""
    rotation: Annotated[float, Field(ge=0, le=180)] | None = None
    """Largest rotation either way, in degrees; what comes in from outside is black. Default: 15 from version 1."""
    translate: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest shift in each direction, as a share of the side, in whole pixels; what comes in is black."""
    crop: Annotated[int, Field(ge=0, le=512)] = 0
    """Pad by so many black pixels on each side, then cut out a window of the old size at random."""
    crop_scale: tuple[float, float] = (1.0, 1.0)
    """Cut out a rectangle with this share of the area, smallest and largest, and scale it to the full size."""
    hue: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """Largest turn of all hues either way, as a share of the colour circle. Default: 0.05 from version 2."""
    saturation: Annotated[float, Field(ge=0, le=1)] | None = None
    """Saturation is multiplied by 1 - x to 1 + x. Default: 0.3 from version 2."""
    brightness: Annotated[float, Field(ge=0, le=1)] | None = None
    """Brightness is multiplied by 1 - x to 1 + x. Default: 0.2 from version 2."""
    contrast: Annotated[float, Field(ge=0, le=1)] | None = None
    """Distances from the image's mean are multiplied by 1 - x to 1 + x. Default: 0.2 from version 2."""
    blur: Annotated[float, Field(ge=0, le=0.05)] | None = None
    """Largest sigma of a Gaussian blur of every second image, as a share of the shorter side. Default: 0.008 from
    version 3, one pixel at 128."""
    noise: Annotated[float, Field(ge=0, le=128)] | None = None
    """Largest standard deviation of Gaussian noise, in pixel values of 0..255. Default: 8 from version 3."""
    policy: Literal["none", "trivial", "rand", "auto"] = "none"
    """A published policy, run on each image: TrivialAugmentWide, RandAugment or AutoAugment (the one learned on
    ImageNet), as torchvision has them."""
    cutout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """CutOut: side of a square that is blanked in each image, as a share of the shorter side; 0 for none."""
    erase: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Random erasing: probability that a rectangle of 2 to 33 % of the image is filled with noise."""
    mixup: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Mixup: alpha of the Beta distribution of the shares in which two images and their labels are blended; 0 for
    none."""
    cutmix: Annotated[float, Field(ge=0, le=10)] = 0.0
    """CutMix: alpha of the Beta distribution of the area that is replaced by a part of another image; 0 for none. With
    mixup too, each batch takes one of the two."""
    classes: Literal["all", "minority"] = "all"
    """Which images are changed: all, or only those of classes with less than half as many training images as the
    largest class."""

    @pydantic.field_validator("crop_scale")
    @classmethod
    def _is_a_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("two shares of the area, smallest first, above 0 and up to 1")
        return value

    def strength(self, key: str) -> float:
        """The value of a key that `version` may fill; switches are 0 and 1."""
        own = getattr(self, key)
        if own is not None:
            return float(own)
        since, value = _VERSIONS[key]
        return float(value) if self.version >= since else 0.0

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, so that labels become shares of several classes."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def active(self) -> bool:
        """Whether any image is changed at all."""
        return (
            self.mixes
            or self.policy != "none"
            or self.crop_scale != (1.0, 1.0)
            or max(self.translate, self.crop, self.cutout, self.erase) > 0
            or any(self.strength(key) for key in _VERSIONS)
        )


class LossOptions(Strict):
    """What training makes small."""

    name: Literal["ce", "focal", "f1", "ce+f1"] = "ce"
    """Cross entropy, focal loss, one minus a differentiable macro F1 of the batch, or cross entropy mixed with that."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing: so much of each label is spread evenly over all classes; not in the F1 part."""
    gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
    """Focal loss: how much less the images count that are classified well already; 0 is cross entropy."""
    f1_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the F1 part in ce+f1; cross entropy gets the rest."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weight each image by the rarity of its class, images / (classes * images of the class); not in the F1 part."""

    @pydantic.model_validator(mode="after")
    def _f1_alone_is_plain(self) -> LossOptions:
        if self.name == "f1" and (self.smoothing or self.class_weights != "none"):
            raise ValueError("smoothing and class_weights do not act on f1 alone; take ce+f1 or leave them out")
        return self


class TrainOptions(Strict):
    """How a net is trained."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 30
    """Passes over the training images."""
    batch_size: Annotated[int, Field(ge=2, le=65_536)] | Literal["auto"] = 64
    """Images per step. auto takes 64 and, when memory runs out, halves what is computed at once (gradients are added
    up, so that a step still sees 64)."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with Nesterov momentum."""
    lr: Rate = 3e-3
    """Peak learning rate."""
    backbone_lr: Rate | None = None
    """Peak learning rate of everything before the classifier; default: `lr`."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Decoupled weight decay; not applied to biases and norms."""
    schedule: Literal["cosine", "restarts", "onecycle", "constant"] = "cosine"
    """How the learning rate falls after the warm-up: one cosine, cosines that start anew, the one-cycle policy (which
    brings its own warm-up), or not at all."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    """Epochs of linear warm-up."""
    restart_epochs: Annotated[int, Field(ge=1)] = 10
    """Length of the first cosine of `restarts`."""
    restart_mult: Annotated[int, Field(ge=1)] = 2
    """How many times as long each next cosine of `restarts` is."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of a moving average of the weights, which is then what is validated and kept; 0 is off, 0.99 to 0.9999 are
    usual."""
    clip: Annotated[float, Field(ge=0)] = 0.0
    """Largest norm of the gradient of all weights; longer ones are cut to it. 0 is off."""
    freeze: Annotated[int, Field(ge=0)] | Literal["none", "backbone"] = "none"
    """What is not trained: the first so many stages, or all but the classifier."""
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    """Mixed precision. auto uses it on CUDA, and on a CPU with AMX where bf16 takes a training step much faster (on
    other CPUs it was many times slower)."""
    metric: Literal["macro_f1", "accuracy", "balanced_accuracy", "worst_recall", "loss"] = "macro_f1"
    """The validation figure whose best epoch is kept."""
    patience: Annotated[int, Field(ge=0)] = 10
    """Stop after so many epochs without a better figure; 0 never stops early."""
    finetune_epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Epochs a technique trains for after it changed a model; default: two thirds of `epochs`."""
    finetune_lr: Rate | None = None
    """Peak learning rate of fine-tuning; default: `lr`."""
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 5.0
    """A checkpoint is written after every epoch, and within one as often as this."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA when it works."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads for training; default: the faster of 1 and all, timed on the first steps."""
    folds: Annotated[int, Field(ge=2, le=20)] | None = None
    """`edgewise train` only: cross-validate on so many folds of the training and validation images."""
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    """Mirrors of metrics.jsonl, all offline: tensorboard/, mlflow/ and wandb/ in the run folder."""
    sampling: Literal["natural", "balanced"] = "natural"
    """What an epoch is made of: each training image once, or as many images of each class, those of small classes
    several times and not all of large ones."""
    loss: LossOptions = LossOptions()
    """What training makes small."""


class Variant(Strict):
    """One compressed model to make from the base."""

    plan: Plan
    """Techniques in order, e.g. `prune(ratio=0.7) > distill`, or the YAML list of them."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None
    """Row name in tables and folder name; default: made from the plan."""


class DecideOptions(Strict):
    """From which confidence on a file's answers are given; below it they are `unknown`."""

    precision: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Share of the given answers that has to be right. The lowest confidence that shows it on validation images, with
    an error probability of 5 %, goes into the bundle; where none does there is no threshold, and every picture is
    named."""


class ExportOptions(Strict):
    """What is written for the device."""

    formats: Annotated[tuple[Format, ...], Field(min_length=1)] = ("onnx",)
    """Model file formats; what is not installed is told and the others go on. packed is the fp32 onnx file with
    few-valued weights stored in few bits."""
    precisions: Annotated[tuple[Precision, ...], Field(min_length=1)] = ("fp32", "int8")
    """Number formats; each gives a bundle per variant and format."""
    opset: int = LOWEST_OPSET
    """Opset of ONNX files, 13 to 20; old boards read 13 (onnxruntime 1.7, TensorRT 8.0 and later)."""
    int8: Scheme = "auto"
    """The int8 scheme of ONNX files; auto tries each on this CPU and keeps the fastest whose drop is allowed."""
    int8_max_drop: Annotated[float, Field(ge=0, le=1)] = 0.003
    """Largest drop of validation macro F1 against the same model in fp32 for an int8 file to pass."""
    int8_method: Literal["auto", "minmax", "percentile", "mse", "entropy"] = "auto"
    """ONNX: how the range of a tensor is taken from its values; auto keeps the method whose answers on validation
    images stay nearest to those of fp32."""
    int8_equalize: bool | Literal["auto"] = "auto"
    """ONNX: even out the scales of channels between layers first, where that is exact; auto takes it where answers on
    validation images come nearer to those of fp32."""
    int8_correct: bool | Literal["auto"] = "auto"
    """ONNX: let biases take up the shift that rounding the weights brings; auto as above."""
    int8_float_layers: Annotated[float, Field(ge=0, le=1)] = 0.25
    """ONNX: when all else loses too much, the layers that cost most stay float, at most this share of them; 0 for
    none."""
    calibration_images: Annotated[int, Field(ge=1)] = 256
    """Training images, spread evenly over the classes, that set the int8 ranges."""
    calibration_sizes: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """ONNX: smaller numbers of these images to try too, one more calibration for each."""
    parity_images: Annotated[int, Field(ge=1)] = 256
    """Least number of real images on which each file is compared with its torch model; all test images are used."""
    decide: DecideOptions = DecideOptions()
    """When a file says `unknown`; chosen anew for each file on its own answers."""

    @pydantic.field_validator("opset")
    @classmethod
    def _known_opset(cls, value: int) -> int:
        if value < LOWEST_OPSET:
            raise ValueError(f"{LOWEST_OPSET} is the lowest: before it, ONNX has no int8 weights per channel")
        if value > HIGHEST_OPSET:
            raise ValueError(f"{HIGHEST_OPSET} is the highest that the exporter of PyTorch writes")
        return value


def every(options: ExportOptions, *, precisions: bool = True) -> ExportOptions:
    """These options with all formats, and with all precisions where that is wanted too.

    ExecuTorch has to be named: its conversions take up to a minute each, and one has brought down the process beside
    the other converters.
    """
    more = {"precisions": get_args(Precision)} if precisions else {}
    formats = tuple(name for name in get_args(Format) if name != "executorch")
    return options.model_copy(update={"formats": formats, **more})


class MeasureOptions(Strict):
    """How the files are timed."""

    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Threads of the runtime."""
    seconds: Annotated[float, Field(gt=0, le=600)] = 2.0
    """Longest time spent timing each file in quick mode; at least 100 and at most 1,000 runs are taken."""


class Goal(Strict):
    """What the chosen model must meet, judged on validation images."""

    metric: Literal["macro_f1", "accuracy"] = "macro_f1"
    """The figure that is held to the limit."""
    max_drop: Annotated[float, Field(ge=0, le=1)] | None = 0.02
    """Largest drop below the base model."""
    min: Annotated[float, Field(ge=0, le=1)] | None = None
    """Least value; when nothing meets it the command ends with exit code 5."""
    prefer: Literal["latency", "size", "macs"] = "latency"
    """What is made small among those that meet it."""


class Recipe(Strict):
    """Everything about a run."""

    data: DataOptions
    """The images."""
    name: str = "run"
    """Title of the report."""
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] = 0
    """Seed of splits, weights, batches, calibration and intervals."""
    model: str = "convnet(32,64,128, dropout=0.2)"
    """The base model: `convnet(...)` or any timm or torchvision classifier; see `edgewise models`."""
    pretrained: bool = False
    """Start the base model from the library's pretrained weights (needs the network the first time)."""
    weights: str | None = None
    """Start the base model from this file or folder: safetensors, a torch state dict, a model folder or a run."""
    train: TrainOptions = TrainOptions()
    """Training of the base model, of students and of controls."""
    augment: AugmentOptions = AugmentOptions()
    """Random changes of the training images."""
    variants: tuple[Variant, ...] | None = None
    """Compressed models to make; default: a distilled small one and two pruned ones."""
    controls: bool = True
    """Train each variant's structure from scratch too, to show what the technique was worth."""
    explain: bool = True
    """Show what the base model looks at (Grad-CAM before and after training) and list the images it calls wrongly."""
    export: ExportOptions = ExportOptions()
    """Files to write."""
    measure: MeasureOptions = MeasureOptions()
    """Timing."""
    goal: Goal = Goal()
    """What the chosen model must meet."""

    @pydantic.field_validator("weights")
    @classmethod
    def _one_start(cls, value: str | None, info: pydantic.ValidationInfo) -> str | None:
        if value is not None and info.data.get("pretrained"):
            raise ValueError("pretrained is set too; a model starts from one of them")
        return value


def load_recipe(path: Path | None, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read and check a recipe file; all problems are named at once, each with its line.

    A relative `data.source` or `weights` that names something beside the recipe is taken from there.

    Args:
        path: the file; None stands for an empty recipe.
        changes: dotted keys with the values that replace the file's, e.g. ``{"train.epochs": 5}``.

    Raises:
        ConfigError: missing, too large, not YAML, duplicate or unknown keys, values out of range.
    """
    return check_written(read_written(path, changes))


def check_written(written: Written) -> Recipe:
    """The recipe of values as they were written.

    Raises:
        ConfigError: C02, unknown keys, values out of range.
    """
    return build(Recipe, written.values, written.origin, written.lines)


@functools.cache
def meanings(model: type[BaseModel]) -> dict[str, str]:
    """The docstring under each field of an option model, in one line."""
    section = read_source(Path(inspect.getfile(model))).sections[model.__name__]
    return {name: key.meaning for name, key in section.keys.items() if key.meaning}


def example() -> str:
    """A complete recipe in YAML: every key with its default and its meaning as comments."""
    lines = ["# A complete edgewise recipe; all but data.source can be left out.", *_example(Recipe, 0)]
    return "\n".join(lines) + "\n"


def _example(model: type[BaseModel], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field_ in model.model_fields.items():
        description = textwrap.wrap(meanings(model)[name], 100, break_on_hyphens=False)
        yield from (f"{indent}# {line}" for line in description)
        below = next(_models(field_.annotation), None)
        if name == "variants" and below is not None:
            yield f"{indent}variants:"
            yield f'{indent}  - {{name: prune50, plan: "prune(ratio=0.5)"}}'
            yield f'{indent}  - {{name: small, plan: "distill(student=convnet(8,16,32), tau=4)"}}'
        elif below is not None:
            yield f"{indent}{name}:"
            yield from _example(below, depth + 1)
        else:
            value = "path/to/images" if field_.is_required() else field_.default
            yield f"{indent}{name}: {json.dumps(value)}"


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every key written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def differences(before: Recipe, after: Recipe) -> dict[str, str]:
    """The keys whose values differ, each with a line ``key: before -> after``."""
    old, new = (dict(_flat(recipe.model_dump(mode="json"))) for recipe in (before, after))
    return {
        key: f"{key}: {json.dumps(old.get(key))} -> {json.dumps(new.get(key))}"
        for key in sorted(old | new)
        if old.get(key) != new.get(key)
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def build(model: type[M], raw: Mapping[str, Any], origin: str, lines: Lines | None = None) -> M:
    """Check plain values against an option model.

    Args:
        model: the option model.
        raw: the values.
        origin: where they came from, for the message (a file, or "command line").
        lines: line numbers of the keys, when they came from a file.

    Raises:
        ConfigError: with every problem listed: key, value, allowed range or nearest name, and line.
    """
    try:
        return model.model_validate(raw)
    except pydantic.ValidationError as problem:
        told = [_tell(model, error, lines or {}) for error in problem.errors()]
    raise refused(told, origin)


def _tell(model: type[BaseModel], error: Any, lines: Lines) -> str:
    path = tuple(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return unknown_key(path, _keys(model, list(path[:-1])), lines)
    told = f"{at_line(path, lines)}{'.'.join(path) or 'recipe'}"
    if error["type"] == "missing":
        return f"{told} is missing"
    return f"{told} = {str(error['input'])[:60]}: {error['msg'].removeprefix('Value error, ')}"


def _keys(model: type[BaseModel], parents: list[str]) -> list[str]:
    for parent in parents:
        if parent.isdigit():
            continue
        found = next(_models(model.model_fields[parent].annotation), None) if parent in model.model_fields else None
        if found is None:
            return []
        model = found
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner)
