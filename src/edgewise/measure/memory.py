"""What a cold start costs: time to a ready session, first inference, peak memory. Each from fresh processes.

The process that is launched is our own runner (for formats that it does not run, `edgewise.device.probe`), never the
`runner.py` inside the bundle: measuring a bundle that came from elsewhere must not run its code. One launch gives all
four figures, since the peak of resident memory is read once before the model is touched (the baseline) and once after
the last inference.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewise.bundle import MANIFEST, verify_bundle
from edgewise.device.standalone import runner_source
from edgewise.errors import UnavailableError, UntrustedError
from edgewise.results import Memory

LAUNCH_TIMEOUT_S = 120.0
"""A launch that takes longer is ended."""


@dataclass(frozen=True)
class Probe:
    """Medians over fresh processes.

    `load_ms` runs from the launch of the process to the ready session, imports included; `first_ms` is the first
    inference; `load_spread_ms` is the largest minus the smallest load of the launches.
    """

    launches: int
    load_ms: float
    load_spread_ms: float
    first_ms: float
    memory: Memory


def probe(bundle: Path, launches: int = 3, *, runs: int = 20, threads: int = 1) -> Probe:
    """Launch the runner on a bundle and read what it costs.

    Args:
        bundle: a bundle folder; none of its code is run.
        launches: fresh processes, at least 1; the figures are medians over them.
        runs: inferences in each (on noise: the time and memory of a cold start do not depend on the picture).
        threads: of the runtime.

    Raises:
        UnavailableError: the runtime is missing, dies or hangs.
        UntrustedError: the bundle is damaged.
    """
    with tempfile.TemporaryDirectory(prefix="edgewise-probe-") as folder:
        program = _program(bundle, Path(folder))
        found = [_launch(program, bundle.resolve(), runs, threads) for _ in range(launches)]
    loads = [facts["load_ms"] for facts in found]
    return Probe(
        launches=launches,
        load_ms=statistics.median(loads),
        load_spread_ms=max(loads) - min(loads),
        first_ms=statistics.median(facts["first_ms"] for facts in found),
        memory=Memory(
            peak_rss_bytes=statistics.median_low(facts["peak_rss_bytes"] for facts in found),
            baseline_rss_bytes=statistics.median_low(facts["baseline_rss_bytes"] for facts in found),
        ),
    )


def _program(bundle: Path, folder: Path) -> list[str]:
    """The beginning of the command that probes this bundle.

    Raises:
        UntrustedError: the bundle is not an onnx one, and its files are not as they were written.
    """
    try:
        format_ = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))["format"]
    except (OSError, ValueError, KeyError, TypeError):
        format_ = "onnx"  # the runner says what is wrong
    if format_ == "onnx":
        script = folder / "runner.py"
        script.write_text(runner_source(), encoding="utf-8")
        return [str(script), "probe"]
    verify_bundle(bundle)
    return ["-m", "edgewise.device.probe"]


def _launch(program: list[str], bundle: Path, runs: int, threads: int) -> dict[str, Any]:
    command: list[str | Path] = [
        sys.executable,
        *program,
        "--bundle",
        bundle,
        "--runs",
        str(runs),
        "--threads",
        str(threads),
    ]
    try:
        done = subprocess.run(
            [*command, "--started", repr(time.monotonic())],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LAUNCH_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as problem:
        raise UnavailableError(
            "the probe did not end",
            code="E31",
            where={"bundle": bundle},
            why=f"no answer after {LAUNCH_TIMEOUT_S:g} s",
            fix="is the machine out of memory? try `python runner.py probe --runs 1` in the bundle by hand",
        ) from problem
    if done.returncode != 0:
        raise _failure(done.returncode, done.stderr, bundle)
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def _failure(status: int, stderr: str, bundle: Path) -> UnavailableError | UntrustedError:
    if status == UntrustedError.exit_code:
        return UntrustedError(
            "the probe refuses the bundle",
            code="U21",
            where={"bundle": bundle},
            why=stderr.strip(),
            fix="`edgewise verify BUNDLE` names what was changed; export it again",
        )
    if status < 0:
        name = signal.Signals(-status).name
        fix = "run `python runner.py probe` in the bundle by hand"
        if name == "SIGILL":
            fix = "this build of the runtime needs a newer CPU; install an older one"
        elif name == "SIGKILL":
            fix = "most likely the machine ran out of memory; choose a smaller model or image size"
        return UnavailableError(
            "the runtime died", code="E30", where={"bundle": bundle}, why=f"killed by {name}", fix=fix
        )
    return UnavailableError(
        "the probe failed",
        code="E30",
        where={"bundle": bundle},
        why="\n".join(stderr.strip().splitlines()[-5:]) or f"exit code {status}",
        fix="run `python runner.py probe` in the bundle by hand",
    )
