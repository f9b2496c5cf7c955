"""Bundles of real handwritten digits in every precision and scheme, and how to run them somewhere else."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgewise.bundle import InputSpec, Manifest, write_bundle
from edgewise.data.builtin import load_builtin
from edgewise.device import RUNTIMES
from edgewise.device.standalone import runner_source
from edgewise.export import FORMATS, ExportSpec
from edgewise.export.onnx import SCHEMES
from edgewise.models import create_model

SIDE, TEST_IMAGES = 16, 120
DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
import runner
bundles, pictures = sys.argv[2].split(","), sys.argv[3:]
codes = [runner.main(["classify", "--top", "1", "--bundle", bundle] + pictures) for bundle in bundles]
sys.exit(max(codes))
"""
"""Runs `runner.py classify` for several bundles in one process: starting one is what takes time under an emulator."""


GOLDEN = Path(__file__).parents[1] / "device/golden_pixels.npz"

SAID = """import runner, json
print(json.dumps({{"versions": runner._later("edgewise.device.shipped.clocks", "versions")[0]()}}), file=sys.stderr)
with runner.np.load({golden!r}) as stored:
    for name in set(stored.files) - {{"picture"}}:
        pixels = runner.prepare(stored["picture"], 17, 20, 3, *name.split("-"))
        assert (pixels == stored[name]).all(), name
"""
"""Tells the versions, and that an old numpy and Pillow make the pixels that are pinned."""


def program(golden: str) -> str:
    """`DRIVER` with `SAID`; `golden` is where the pinned pixels stand for it."""
    return DRIVER.replace("import runner\n", SAID.format(golden=golden), 1)


@dataclass(frozen=True)
class Shelf:
    """Bundles with what this machine's runtime says of the pictures.

    `decisions` maps a bundle's name (fp32 or an int8 scheme) to int64 (images,); `labels` is the truth.
    """

    folder: Path
    names: list[str]
    pictures: list[str]
    decisions: dict[str, NDArray[np.int64]]
    labels: NDArray[np.int64]

    def only(self, names: list[str]) -> Shelf:
        """The same shelf with fewer bundles."""
        return dataclasses.replace(self, names=names)

    def words(self, folder: str) -> list[str]:
        """The arguments of `DRIVER` where the shelf stands in `folder`."""
        bundles = [f"{folder}/{name}" for name in self.names]
        return [bundles[0], ",".join(bundles), *(f"{folder}/{name}" for name in self.pictures)]

    def read(self, text: str) -> dict[str, NDArray[np.int64]]:
        """The decisions in what `DRIVER` printed."""
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        assert all("label" in line for line in lines), lines
        found = np.array([int(line["label"]) for line in lines]).reshape(len(self.names), len(self.pictures))
        return {name: found[index] for index, name in enumerate(self.names)}


def make_shelf(folder: Path) -> Shelf:
    """Train a small net on digits, write it in every precision and scheme, and classify test images here."""
    digits = load_builtin("digits", download=False)
    truth = np.array([int(entry.label) for entry in digits.scan.entries])
    images = np.stack([np.asarray(Image.fromarray(image).resize((SIDE, SIDE), 2)) for image in digits.images])[
        ..., None
    ]
    model = create_model(
        "convnet(8, 16)",
        labels=[str(n) for n in range(10)],
        input=InputSpec(SIDE, SIDE, 1, mean=(0.5,), std=(0.5,)),
        seed=0,
    )
    _train(model.module, images[TEST_IMAGES:], truth[TEST_IMAGES:])
    folder.mkdir()
    pictures = []
    for number in range(TEST_IMAGES):
        pictures.append(f"{number:03}.png")
        Image.fromarray(digits.images[number]).save(folder / pictures[-1])
    names, decisions = [], {}
    for scheme in ("", *SCHEMES):
        name = scheme or "fp32"
        path = folder / f"{name}.onnx"
        spec = ExportSpec("int8" if scheme else "fp32", folder.parent / "work", scheme, images[TEST_IMAGES:][:200])
        FORMATS["onnx"].write(model, spec, path)
        decisions[name] = RUNTIMES["onnx"].load(path).scores(images[:TEST_IMAGES]).argmax(1)
        manifest = Manifest(name, "onnx", spec.precision, scheme, "model.onnx", model.input, list(model.labels))
        write_bundle(folder / name, manifest, path, {"runner.py": runner_source()})
        path.unlink()
        names.append(name)
    return Shelf(folder, names, pictures, decisions, truth[:TEST_IMAGES])


def _train(module: object, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    import torch

    assert isinstance(module, torch.nn.Module)
    torch.manual_seed(0)
    pixels = torch.from_numpy((images.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5).float()
    truth = torch.from_numpy(labels)
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.005)
    module.train()
    for _ in range(12):
        for rows in torch.randperm(len(truth)).split(64):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(module(pixels[rows]), truth[rows]).backward()
            optimiser.step()
    module.eval()
