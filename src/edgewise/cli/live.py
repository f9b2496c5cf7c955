"""`edgewise live`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgewise.cli.options import Json, say_next

Camera = Annotated[
    str, typer.Option("--camera", metavar="WxH@FPS", help="Size and rate to ask a camera for, e.g. 1280x720@60.")
]


def live(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder.")],
    source: Annotated[
        str,
        typer.Option(
            help="usb:0, csi:0, picamera, rtsp://..., gst:PIPELINE, a video file, a folder of pictures, or synthetic."
        ),
    ] = "usb:0",
    detector: Annotated[
        str, typer.Option(help="What finds faces: none (whole frames), haar, lbp, yunet:FILE or onnx:FILE.")
    ] = "none",
    every: Annotated[int, typer.Option(min=1, help="Detect at least every so many frames; else follow.")] = 10,
    detector_width: Annotated[
        int, typer.Option(min=0, max=8192, help="Scale frames down to this width for the detector; 0: not.")
    ] = 320,
    smooth: Annotated[int, typer.Option(min=1, max=600, help="Average results over so many frames.")] = 1,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Unknown below this confidence; default: the bundle's own.")
    ] = None,
    patience: Annotated[int, typer.Option(min=1, help="Change a label after so many frames that agree.")] = 1,
    save_uncertain: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep pictures of what is unknown, for labelling and training.")
    ] = None,
    record: Annotated[Path | None, typer.Option(metavar="FILE.mp4", help="Record what is shown.")] = None,
    headless: Annotated[bool, typer.Option("--headless", help="No window; one JSON line a frame on stdout.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time went and what to change.")] = False,
    frames: Annotated[int | None, typer.Option(min=1, help="End after so many frames.")] = None,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads of the runtime.")] = 1,
    camera: Camera = "640x480@30",
    json_: Json = False,
) -> None:
    """Classify what a camera, a video or a folder shows, frame by frame."""
    from edgewise.live.session import Session, run_session

    session = Session(
        bundle=bundle,
        source=source,
        detector=detector,
        every=every,
        detector_width=detector_width,
        smooth=smooth,
        record=record,
        headless=headless,
        profile=profile,
        frames=frames,
        threads=threads,
        camera=camera,
        json_lines=json_ or headless,
        threshold=threshold,
        patience=patience,
        save_uncertain=save_uncertain,
    )
    ending = run_session(session)
    say_next(ending.json_lines, *ending.words)
