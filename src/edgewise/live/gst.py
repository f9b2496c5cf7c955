"""Sources by way of GStreamer: the ribbon-cable cameras of Jetson and Raspberry Pi, and any other pipeline.

PyPI's OpenCV is built without GStreamer, so there are three ways, tried in this order: an OpenCV that has it (a board's
own), PyGObject, and a child process `gst-launch-1.0 -q ... ! fdsink` that writes raw RGB frames into a pipe. All three
run the same pipeline and give the same pixels.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

from edgewise.errors import ConfigError, UnavailableError
from edgewise.live.base import Source
from edgewise.live.gst_child import open_child
from edgewise.live.gst_gi import has_gi, open_gi
from edgewise.live.gst_opencv import has_opencv, open_opencv
from edgewise.live.wanted import Wanted

Way = Callable[[str, str, Wanted, bool], Source]
"""(pipeline, name, wanted, live) -> source; wanted.fps 0 leaves the rate to the pipeline."""

WAYS: dict[str, tuple[Callable[[], bool], Way]] = {
    "opencv": (has_opencv, open_opencv),
    "gi": (has_gi, open_gi),
    "child": (lambda: shutil.which("gst-launch-1.0") is not None, open_child),
}
"""Name -> is it here, and what opens a pipeline with it; in the order in which they are tried."""

INSTALL = "sudo apt install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
FILES = ("filesrc", "multifilesrc", "imagefreeze")
"""First elements that wait until they are read."""

BOARDS: dict[str, str] = {
    "jetson": (
        "nvarguscamerasrc sensor-id={number} ! "
        "video/x-raw(memory:NVMM),width={width},height={height},framerate={rate}/1,format=NV12 ! "
        "nvvidconv ! video/x-raw,format=BGRx"
    ),
    "raspberry": "libcamerasrc ! video/x-raw,width={width},height={height},framerate={rate}/1",
}
"""Board -> the pipeline of its ribbon-cable camera, up to where it can be converted to RGB."""


def open_pipeline(text: str, wanted: Wanted, way: str | None = None) -> Source:
    """`gst:PIPELINE`: any source and filters of GStreamer; conversion to RGB, scaling and the sink are added.

    Frames are scaled to the wanted size, with black bars where the shape differs. A pipeline that begins with a file
    waits until it is read; any other is live.

    Raises:
        ConfigError: L01, no pipeline.
        UnavailableError: L06, GStreamer is not installed; L07, the pipeline does not run.
    """
    try:
        first = shlex.split(text)[:1]
    except ValueError as problem:
        raise ConfigError("not a pipeline", code="L01", where={"pipeline": text}, why=str(problem)) from None
    if not first:
        raise ConfigError("no pipeline", code="L01", fix="e.g. --source 'gst:videotestsrc pattern=ball'")
    return _open(text, f"gst:{first[0]}", wanted, first[0] not in FILES, way)


def open_csi(text: str, wanted: Wanted) -> Source:
    """`csi:0`: the ribbon-cable camera of this board.

    Raises:
        ConfigError: L01, not a number, or one that this board's pipeline cannot say.
        UnavailableError: L02, this is no such board; L06, L07 as for any pipeline.
    """
    if text and not text.isdigit():
        raise ConfigError(f'not a camera: "csi:{text}"', code="L01", fix="csi:0 is the first one")
    pipeline = csi_pipeline(board(), int(text or 0), wanted)
    return _open(pipeline, f"csi:{int(text or 0)}", wanted, True, None)


def csi_pipeline(model: str | None, number: int, wanted: Wanted) -> str:
    """The pipeline string of camera `number` on a board.

    Raises:
        ConfigError: L01, the board chooses its cameras by names.
        UnavailableError: L02, no board with such a camera.
    """
    if model is None:
        raise UnavailableError(
            f"no camera csi:{number}",
            code="L02",
            why="this machine is neither a Jetson nor a Raspberry Pi",
            fix="a USB camera is --source usb:0; any GStreamer pipeline is --source 'gst:...'",
        )
    if model == "raspberry" and number:
        raise ConfigError(
            "libcamera chooses its cameras by name",
            code="L01",
            where={"source": f"csi:{number}"},
            fix="`rpicam-hello --list-cameras`, then --source 'gst:libcamerasrc camera-name=/base/...'",
        )
    rate = max(1, round(wanted.fps))
    return BOARDS[model].format(number=number, width=wanted.width, height=wanted.height, rate=rate)


def board(root: Path = Path("/")) -> str | None:
    """`jetson`, `raspberry` or None, by what the device tree says."""
    try:
        model = (root / "proc/device-tree/model").read_bytes().decode(errors="replace").lower()
    except OSError:
        model = ""
    if "jetson" in model or "nvidia" in model or (root / "etc/nv_tegra_release").exists():
        return "jetson"
    return "raspberry" if "raspberry pi" in model else None


def _open(pipeline: str, name: str, wanted: Wanted, live: bool, way: str | None) -> Source:
    for known, (here, opened) in WAYS.items():
        if way == known or (way is None and here()):
            return opened(pipeline, name, wanted, live)
    raise UnavailableError("GStreamer is not installed", code="L06", where={"source": name}, fix=INSTALL)
