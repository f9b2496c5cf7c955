"""Detectors: what they find in a real face and in made-up nets, and what is refused before a library opens it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from PIL import Image

from edgewise.errors import ConfigError, EdgewiseError, UnavailableError, UntrustedError
from edgewise.live.base import Box
from edgewise.live.boxes import iou
from edgewise.live.detect import DETECTORS, open_detector, shrink
from edgewise.live.detect_onnx import decode
from tests.live import nets
from tests.live.conftest import make_bundle

FACE = Box(172, 62, 110, 110)
"""Of the astronaut, by eye."""


def bright(left: int, top: int, side: int, size: tuple[int, int] = (128, 128)) -> np.ndarray:
    frame = np.zeros((*size, 3), np.uint8)
    frame[top : top + side, left : left + side] = 255
    return frame


@pytest.mark.parametrize("kind", ["haar", "lbp"])
@pytest.mark.parametrize("width", [0, 320])
def test_cascades_find_the_face(kind: str, width: int, astronaut: Image.Image) -> None:
    detector = open_detector(kind, width)
    assert detector is not None
    found = detector.find(np.asarray(astronaut))
    assert found
    assert iou(found[0], FACE) > (0.5 if kind == "haar" else 0.35)  # the improved LBP cascade frames faces closely
    assert [box.score for box in found] == sorted((box.score for box in found), reverse=True)


def test_at_full_width_haar_finds_what_the_plain_call_finds(astronaut: Image.Image) -> None:
    pixels = np.asarray(astronaut)
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    plain = cascade.detectMultiScale(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), 1.1, 5, minSize=(30, 30))
    detector = open_detector("haar", 0)
    assert detector is not None
    found = {(box.left, box.top, box.width, box.height) for box in detector.find(pixels)}
    assert found == {tuple(float(value) for value in box) for box in plain}
    assert found


def test_frames_are_scaled_down_for_the_detector_and_boxes_back(astronaut: Image.Image) -> None:
    small, scale = shrink(np.asarray(astronaut), 128)
    assert small.shape == (128, 128, 3)
    assert scale == 0.25
    np.testing.assert_allclose(small[0, 0], np.asarray(astronaut)[:4, :4].reshape(-1, 3).mean(0), atol=1)
    for width in (0, 512, 1000):
        assert shrink(np.asarray(astronaut), width)[1] == 1.0


def test_yunet_runs_in_opencv_at_any_size_and_names_its_hash(tmp_path: Path) -> None:
    file = nets.yunet(tmp_path / "y.onnx")
    detector = open_detector(f"yunet:{file}", 320)
    assert detector is not None
    assert hashlib.sha256(file.read_bytes()).hexdigest() in detector.name
    (box,) = detector.find(bright(192, 128, 64, (384, 640)))  # half the size: 320 x 192, one cell of 32
    assert box.score == pytest.approx(1, abs=0.01)
    assert iou(box, Box(96, 32, 192, 192)) > 0.6
    assert detector.find(np.zeros((384, 640, 3), np.uint8)) == []


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_onnx_detectors_of_the_documented_layouts(kind: str, tmp_path: Path) -> None:
    file = nets.bright_squares(tmp_path / "d.onnx", kind)
    detector = open_detector(f"onnx:{file}")
    assert detector is not None
    assert hashlib.sha256(file.read_bytes()).hexdigest() in detector.name
    (box,) = detector.find(bright(32, 64, 32))
    assert (box.left, box.top, box.width, box.height) == (32, 64, 32, 32)
    assert box.score == pytest.approx(1, abs=0.05)


def test_of_overlapping_boxes_the_surest_stays_and_nonsense_goes() -> None:
    scores = np.array([[0.8, 0.9, 0.95, 0.2, np.nan, 0.9]], np.float32)
    boxes = np.array(
        [[[0, 0, 0.5, 0.5], [0, 0, 0.55, 0.5], [0.6, 0.6, 1.2, 1], [0, 0, 1, 1], [0, 0, 1, 1], [0.9, 0.9, 0.1, 0.1]]],
        np.float32,
    )
    found = decode(scores, boxes, 100, 200)
    assert [(round(box.left), round(box.width), round(box.height)) for box in found] == [(60, 40, 80), (0, 55, 100)]


def hostile(path: Path) -> Path:
    nets.bright_squares(path)
    model = onnx.load(path)
    tensor = model.graph.initializer[-1]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("kind", ["yunet", "onnx"])
def test_files_that_no_runtime_should_open_are_not_opened(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *_: pytest.fail("it was opened"))
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: pytest.fail("it was opened"))
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "link.onnx").symlink_to(nets.bright_squares(tmp_path / "good.onnx"))
    for file, code in (
        (hostile(tmp_path / "h.onnx"), "U62"),
        (tmp_path / "text.onnx", "U61"),
        (tmp_path / "link.onnx", "U60"),
        (tmp_path / "none.onnx", "U60"),
    ):
        with pytest.raises(UntrustedError) as caught:
            open_detector(f"{kind}:{file}")
        assert caught.value.code == code


def test_other_nets_are_refused_by_their_layout(tmp_path: Path) -> None:
    classifier = make_bundle(tmp_path / "b") / "model.onnx"
    for words in (f"yunet:{classifier}", f"onnx:{classifier}", f"onnx:{nets.yunet(tmp_path / 'y.onnx')}"):
        with pytest.raises(UntrustedError) as caught:
            open_detector(words)
        assert caught.value.code == "L13"


@pytest.mark.parametrize(
    ("words", "code"),
    [("haarr", "L11"), ("yunet", "L11"), ("onnx:", "L11"), ("haar:/nowhere.xml", "L12"), ("", "L11")],
)
def test_wrong_words_are_told(words: str, code: str) -> None:
    with pytest.raises((ConfigError, UnavailableError)) as caught:
        open_detector(words)
    assert caught.value.code == code


def test_a_file_that_is_no_cascade_is_refused(tmp_path: Path) -> None:
    for text in ("<opencv_storage></opencv_storage>", "not xml", ""):
        (tmp_path / "c.xml").write_text(text)
        with pytest.raises(EdgewiseError) as caught:
            open_detector(f"haar:{tmp_path / 'c.xml'}")
        assert caught.value.code == "L13"


def test_another_cascade_by_its_file(astronaut: Image.Image) -> None:
    file = cv2.data.haarcascades + "haarcascade_frontalface_alt2.xml"
    detector = open_detector(f"haar:{file}", 0)
    assert detector is not None
    assert hashlib.sha256(Path(file).read_bytes()).hexdigest() in detector.name
    assert iou(detector.find(np.asarray(astronaut))[0], FACE) > 0.5


def test_none_is_no_detector_and_all_kinds_are_told() -> None:
    import edgewise.live.detect as module

    assert open_detector("none") is None
    assert module.__doc__ is not None
    assert all(kind in module.__doc__ for kind in DETECTORS)
