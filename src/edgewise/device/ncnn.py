"""ncnn on the CPU: structure in `.param`, weights beside it in `.bin`.

ncnn trusts its files: its reader takes sizes as they are written. Nothing reaches it here that the checksums of
`edgewise.device.seal` do not cover, and no layer that an image classifier does not need.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgewise.device.base import Pixels, Scores, Session
from edgewise.device.package import installed, not_importable, refused
from edgewise.device.seal import Sealed, open_sealed, sidecar

WEIGHTS = ".bin"
INPUT, OUTPUT = "in0", "out0"
_MAGIC = "7767517"
AGAIN = "export the model again"


class NcnnSession:
    """One ncnn net; images go through it one by one, which is how ncnn works."""

    def __init__(self, sealed: Sealed, threads: int) -> None:
        try:
            import ncnn
        except ImportError as problem:
            raise not_importable("ncnn", "E85", problem, NcnnRuntime.install) from problem
        structure = _structure(sealed)
        half = sealed.facts["precision"] == "fp16"
        self._net: Any = ncnn.Net()
        self._options = {
            "use_vulkan_compute": False,
            "use_fp16_packed": half,
            "use_fp16_storage": half,
            "use_fp16_arithmetic": False,  # sums stay float32, so that a file answers alike with and without fp16 units
            "use_bf16_storage": False,
            "use_winograd_convolution": True,
            "use_int8_inference": sealed.facts["precision"] == "int8",
        }
        for name, value in self._options.items():
            setattr(self._net.opt, name, value)
        self._net.opt.num_threads = threads
        if self._net.load_param_mem(structure) != 0 or self._net.load_model(str(sidecar(sealed.path, WEIGHTS))) != 0:
            raise refused("ncnn", sealed.path, "ncnn cannot read it; it may need a newer ncnn", AGAIN)
        self._ncnn: Any = ncnn
        self._sealed = sealed
        self._threads = threads

    def scores(self, batch: Pixels) -> Scores:
        """Logits (N, classes) of uint8 pixels (N, height, width, channels).

        Raises:
            ValueError: the pixels are not as the model wants them.
        """
        self._sealed.check(batch)
        height, width, channels = self._sealed.shape
        kind = self._ncnn.Mat.PixelType
        pixels = kind.PIXEL_RGB if channels == 3 else kind.PIXEL_GRAY
        scores = np.empty((len(batch), self._sealed.classes), np.float32)
        for row, image in enumerate(np.ascontiguousarray(batch)):
            extractor = self._net.create_extractor()
            extractor.input(INPUT, self._ncnn.Mat.from_pixels(image, pixels, width, height))
            failed, answer = extractor.extract(OUTPUT)
            if failed or answer.w * answer.h * answer.c != self._sealed.classes:
                raise refused("ncnn", self._sealed.path, f"it gives {answer.w * answer.h * answer.c} values", AGAIN)
            scores[row] = np.array(answer).reshape(-1)
        return scores

    def describe(self) -> dict[str, str]:
        """Runtime name, version, provider, threads, and the options that change answers or speed."""
        options = {name: "on" if value else "off" for name, value in self._options.items()}
        version = str(self._ncnn.__version__)
        return {"runtime": "ncnn", "version": version, "provider": "CPU", "threads": str(self._threads), **options}


class NcnnRuntime:
    """Runs `.param` files with their `.bin`; see `edgewise.device.base.Runtime`."""

    format = "ncnn"
    module = "ncnn"
    install = 'pip install "edgewise[ncnn]"'
    example = """
import ncnn

net = ncnn.Net()
net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
net.load_param("model.param")
net.load_model("model.bin")
height, width, channels = image.shape[1:]
kind = ncnn.Mat.PixelType.PIXEL_RGB if channels == 3 else ncnn.Mat.PixelType.PIXEL_GRAY
extractor = net.create_extractor()
extractor.input("in0", ncnn.Mat.from_pixels(image[0], kind, width, height))
logits = np.array(extractor.extract("out0")[1])[None]
"""

    def load(self, path: Path, threads: int = 1) -> Session:
        """Open a `.param` file and the `.bin` file of the same name."""
        return NcnnSession(open_sealed(path, self.format, (WEIGHTS,)), threads)

    def version(self) -> str | None:
        """The installed ncnn, found without importing it."""
        return installed("ncnn")


def _structure(sealed: Sealed) -> str:
    """The text of a `.param` file after a look at its grammar: counts that fit, each blob made once before it is read.

    Raises:
        UntrustedError: U04.
    """
    try:
        lines = sealed.content.decode("ascii").splitlines()
        layers, blobs = (int(number) for number in lines[1].split())
        made: set[str] = set()
        for line in lines[2:]:
            inputs, outputs = (int(number) for number in line.split()[2:4])
            names = line.split()[4 : 4 + inputs + outputs]
            if min(inputs, outputs) < 0 or len(names) != inputs + outputs or not made.issuperset(names[:inputs]):
                raise ValueError(f"layer {line.split()[1]} reads what no layer before it makes")
            made.update(names[inputs:])
        if lines[0] != _MAGIC or layers != len(lines) - 2 or blobs != len(made) or not {INPUT, OUTPUT} <= made:
            raise ValueError("its counts of layers and blobs do not fit")
    except (ValueError, IndexError) as problem:
        raise refused("ncnn", sealed.path, str(problem), AGAIN) from problem
    return "\n".join(lines) + "\n"
