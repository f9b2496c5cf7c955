"""How ``runner.py`` is used, in words. Python 3.6."""

import sys

from edgewise.device.shipped.words import COMMANDS

ABOUT = {
    "classify": "say what is on pictures (or .npy, uint8 height x width [x 3]), one JSON line each",
    "camera": "say what a camera (number, GStreamer pipeline or video file; default: 0) sees, one JSON line a frame",
    "bench": "time it here, one JSON line a clock; e2e needs an image",
    "verify": "check that no file was changed",
    "tensorrt": "write the fp32 model as TensorRT 8.2 takes it; FILE must not exist",
    "probe": "time a cold start and read its memory",
}
OPTIONS = {
    "--bundle": "folder with manifest.json (default: where this file is)",
    "--threads": "threads of the runtime",
    "--top": "how many labels to list",
    "--threshold": "label null below this confidence, 0 to 1 (default: the bundle's)",
    "--every": "classify every n-th frame",
    "--frames": "stop after so many answers, 0 never",
    "--runs": "inferences to time",
    "--baseline": "stop once the runtime is imported",
    "--started": "time.monotonic() at the launch",
}


def show_usage(code: int, problem: str, command: str = "") -> None:
    """Say how it is used, and what was wrong; on standard error where the exit code is not 0."""
    lines = []
    for name in [command] if command else COMMANDS:
        words, defaults = COMMANDS[name]
        lines.append("usage: runner.py {} {} [options]\n    {}".format(name, words, ABOUT[name]))
        for option in [*defaults, "--bundle"] if command else []:
            default = defaults.get(option)
            shown = "" if default is None or option == "--baseline" else " (default: {})".format(default)
            lines.append("    {:12} {}{}".format(option, OPTIONS[option], shown))
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    if problem:
        print("error: " + problem, file=sys.stderr)
