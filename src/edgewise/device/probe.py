"""What a cold start costs in a fresh process, for runtimes that a bundle's `runner.py` does not run.

    python -m edgewise.device.probe --bundle FOLDER [--runs N] [--threads N] [--started S]

Prints one JSON line with the keys of ``runner.py probe``. The bundle's own code is not run; its hashes are checked by
the caller. Exit codes: 0 ok, 4 the runtime is missing, 6 the model file is refused.
"""

import time

_FIRST_LINE = time.monotonic()  # before the slow imports: they are part of a cold start

import argparse  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

from edgewise.device import RUNTIMES  # noqa: E402
from edgewise.device.shipped.clocks import peak_rss  # noqa: E402
from edgewise.errors import EdgewiseError  # noqa: E402


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Time a cold start and read its memory.")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--started", type=float, default=_FIRST_LINE, help="time.monotonic() at the launch")
    options = parser.parse_args()
    manifest = json.loads((options.bundle / "manifest.json").read_text(encoding="utf-8"))
    runtime = RUNTIMES[manifest["format"]]
    try:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # see `edgewise.device.openvino`
        importlib.import_module(runtime.module)
        facts = {"baseline_rss_bytes": peak_rss()}
        session = runtime.load(options.bundle / manifest["model_file"], options.threads)
    except ImportError as problem:
        print(f"{problem}; {runtime.install}", file=sys.stderr)
        return 4
    except EdgewiseError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    facts["load_ms"] = (time.monotonic() - options.started) * 1e3
    height, width, channels = (manifest["input"][key] for key in ("height", "width", "channels"))
    pixels = np.random.RandomState(0).randint(0, 256, (1, height, width, channels)).astype(np.uint8)
    taken = []
    for _ in range(max(1, options.runs)):
        start = time.perf_counter()
        session.scores(pixels)
        taken.append((time.perf_counter() - start) * 1e3)
    print(json.dumps({**facts, "first_ms": taken[0], "runs": len(taken), "peak_rss_bytes": peak_rss()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
