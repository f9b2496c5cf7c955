"""OpenVINO on the CPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgewise.device.base import Pixels, Scores, Session
from edgewise.device.package import installed, not_importable, refused

PRECISION = "f32"
"""What float layers compute in. On CPUs with AMX or AVX-512 BF16 the plugin's own choice is bf16, which changes
answers, and would be another one on the next machine."""


def import_openvino() -> Any:
    """OpenVINO without its telemetry.

    Its import alone reports to a server and writes a client id into the home folder. `openvino_telemetry` is what does
    so; where that cannot be imported, OpenVINO and NNCF put a stub of their own in its place. So its import is refused
    for this process, unless somebody else has imported it before.

    Raises:
        UnavailableError: it is not installed or does not work here.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # what refuses an import
    try:
        import openvino
    except (ImportError, OSError) as problem:
        raise not_importable("openvino", "E80", problem, OpenVinoRuntime.install) from problem
    return openvino


class OpenVinoSession:
    """One OpenVINO model opened for a single stream.

    One picture at a time is compiled for exactly that (a dynamic batch costs small nets a third of their speed), any
    other number of pictures for a batch that is free; each when it is first needed.
    """

    def __init__(self, path: Path, threads: int) -> None:
        openvino = import_openvino()
        self._ov: Any = openvino
        self._threads = threads
        self._requests: dict[bool, Any] = {}
        self._path = path
        try:
            self._core: Any = openvino.Core()
            self._model: Any = self._core.read_model(path.read_bytes(), path.with_suffix(".bin").read_bytes())
            shape = self._model.input(0).partial_shape
            self._shape = [shape[axis].get_length() for axis in range(1, len(shape))]
            self._request(alone=True)
        except (OSError, RuntimeError) as problem:
            why = str(problem).strip().splitlines()[-1]
            fix = "export the model again; `edgewise verify BUNDLE` tells whether the file was changed"
            raise refused("openvino", path, why, fix) from problem

    def scores(self, batch: Pixels) -> Scores:
        """Logits (N, classes) of uint8 pixels (N, height, width, channels)."""
        alone = len(batch) == 1
        request = self._request(alone=alone)
        if not alone:
            request.set_input_tensor(self._ov.Tensor(self._ov.Type.u8, list(batch.shape)))
        # Writing into the request's own tensor skips the Python wrapper, which costs a tiny net a third of its time.
        request.get_input_tensor().data[...] = batch
        request.infer()
        scores: Scores = np.array(request.get_output_tensor().data, dtype=np.float32)
        return scores

    def describe(self) -> dict[str, str]:
        """Runtime name, version, device, threads and the precision that float layers compute in."""
        compiled = self._request(alone=True).get_compiled_model()
        return {
            "runtime": "openvino",
            "version": str(self._ov.__version__).partition("-")[0],
            "provider": "CPU",
            "threads": str(compiled.get_property("INFERENCE_NUM_THREADS")),
            "inference_precision": str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string()),
        }

    def _request(self, *, alone: bool) -> Any:
        if alone not in self._requests:
            model = self._model.clone()
            model.reshape([1 if alone else -1, *self._shape])
            settings = {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": "1",
                "INFERENCE_NUM_THREADS": self._threads,
                "INFERENCE_PRECISION_HINT": PRECISION,
                "ENABLE_CPU_PINNING": False,  # other runtimes are timed beside this one, and none is bound to a core
            }
            self._requests[alone] = self._core.compile_model(model, "CPU", settings).create_infer_request()
        return self._requests[alone]


class OpenVinoRuntime:
    """Runs `.xml` files with their `.bin`; see `edgewise.device.base.Runtime`."""

    format = "openvino"
    module = "openvino"
    install = "pip install openvino"
    example = """
import sys

sys.modules["openvino_telemetry"] = None  # else the next line reports to its makers and writes into your home
import openvino

core = openvino.Core()
compiled = core.compile_model("model.xml", "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"})
logits = compiled(image)[0]
"""

    def load(self, path: Path, threads: int = 1) -> Session:
        """Open a structure and the weights beside it; both are read as bytes, so no other file is followed."""
        return OpenVinoSession(path, threads)

    def version(self) -> str | None:
        """The installed openvino, found without importing it."""
        return installed("openvino")
