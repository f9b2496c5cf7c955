"""The loop: what a view holds, and what is never shown."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgewise.device import Pixels
from edgewise.device.preprocess import load_pixels
from edgewise.errors import UnavailableError
from edgewise.live.base import Box, View
from edgewise.live.classify import Classifier, cut, open_classifier
from edgewise.live.detect import open_detector
from edgewise.live.fake import Act, FakeSource
from edgewise.live.loop import LoopOptions, run
from edgewise.live.pictures import SyntheticSource
from edgewise.live.sources import open_source
from edgewise.live.testing import frames
from edgewise.live.wanted import Wanted
from tests.live.conftest import make_bundle

RED, GREEN = (220, 20, 20), (20, 220, 20)


class Halves:
    """A detector that finds the left and the right half of the frame."""

    name = "halves"

    def __init__(self) -> None:
        self.calls = 0

    def find(self, pixels: Pixels) -> list[Box]:
        self.calls += 1
        height, width = pixels.shape[:2]
        return [Box(0, 0, width / 2, height), Box(width / 2, 0, width / 2, height)]


class Nothing:
    name = "nothing"

    def find(self, pixels: Pixels) -> list[Box]:
        return []


def folder_of(path: Path, colours: Sequence[tuple[int, int, int]]) -> str:
    path.mkdir()
    for number, colour in enumerate(colours):
        Image.new("RGB", (64, 48), colour).save(path / f"{number}.png")
    return str(path)


def test_whole_frames_are_classified_where_nothing_is_detected_first(classifier: Classifier, tmp_path: Path) -> None:
    views = list(run(open_source(folder_of(tmp_path / "p", [RED, GREEN])), classifier))
    assert [view.state for view in views] == ["live", "live", "ended"]
    for view, label in zip(views, ["red", "green"], strict=False):
        (seen,) = view.seen
        assert (seen.track, seen.label, seen.box) == (0, label, Box(0, 0, 64, 48))
        assert seen.confidence == max(seen.probabilities)
        assert sum(seen.probabilities) == pytest.approx(1, abs=1e-5)
        assert set(view.stages) == {"grab", "crop", "classify"}
        assert view.age_ms >= view.stages["crop"] + view.stages["classify"]
        assert not view.detected


def test_all_crops_of_a_frame_are_one_batch_and_each_has_its_own_label(bundle: Path) -> None:
    classifier = open_classifier(bundle)
    batches = []
    session = classifier.session
    inner = session.scores
    session.scores = lambda batch: batches.append(batch.shape) or inner(batch)  # type: ignore[func-returns-value, method-assign]
    left_red = np.zeros((48, 64, 3), np.uint8)
    left_red[:, :32], left_red[:, 32:] = RED, GREEN
    source = FakeSource([Act("moving", 5)], live=False)
    source._picture = lambda kind: left_red  # type: ignore[method-assign]
    detector = Halves()
    views = list(run(source, classifier, detector, LoopOptions(every=1)))
    assert [[seen.label for seen in view.seen] for view in views[:-1]] == [["red", "green"]] * 5
    assert [[seen.track for seen in view.seen] for view in views[:-1]] == [[1, 2]] * 5
    assert batches == [(2, 8, 8, 3)] * 5
    assert detector.calls == 5
    assert all(view.detected and {"detect", "track"} <= set(view.stages) for view in views[:-1])


def test_a_frame_in_which_nothing_is_found_is_not_classified(classifier: Classifier) -> None:
    view = next(run(FakeSource([Act("moving", 2)], live=False), classifier, Nothing()))
    assert view.seen == ()
    assert set(view.stages) == {"grab", "detect", "track"}


def test_a_file_gives_the_same_views_each_time_although_the_detector_runs_beside_the_loop(
    classifier: Classifier, astronaut: Image.Image
) -> None:
    def views() -> list[View]:
        source = FakeSource([Act("moving", 30)], live=False)
        pictures = frames(astronaut, 30)
        source._picture = lambda kind: next(pictures)  # type: ignore[method-assign]
        return list(run(source, classifier, open_detector("haar", 320), LoopOptions(every=4)))

    first, second = views(), views()
    assert [view.seen for view in first] == [view.seen for view in second]
    assert [view.detected for view in first] == [view.detected for view in second]
    late = [view for view in first if "redetect" in view.stages]
    assert len(late) >= 3
    assert all(view.detected and view.seen for view in late)
    assert not any(thread.name.startswith("edgewise-detect") for thread in threading.enumerate())


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_crops_are_to_the_last_bit_what_training_sees_of_the_same_pixels(fit: str, tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    frame = random.integers(0, 256, (120, 160, 3), np.uint8)
    folder = make_bundle(tmp_path / "b", size=24)
    opened = open_classifier(folder)
    spec = replace(opened.spec, fit=fit)  # type: ignore[arg-type]
    classifier = replace(opened, manifest=replace(opened.manifest, input=spec))
    boxes = [Box(10.4, 20.6, 33.3, 51.2), Box(-5, -7, 40, 30), Box(150, 100, 60, 60), Box(3, 3, 0.2, 0.2)]
    batch = classifier.crops(frame, boxes)
    for at, box in enumerate(boxes):
        file = tmp_path / f"{at}.png"
        Image.fromarray(np.ascontiguousarray(cut(frame, box))).save(file)
        np.testing.assert_array_equal(batch[at], load_pixels(file, **classifier.spec.preprocessing()))


def test_cut_rounds_to_whole_pixels_inside_the_frame() -> None:
    frame = np.arange(12, dtype=np.uint8).reshape(3, 4, 1).repeat(3, axis=2)
    assert cut(frame, Box(0.6, 0.4, 2, 2))[..., 0].tolist() == [[1, 2], [5, 6]]
    assert cut(frame, Box(-9, -9, 100, 100)).shape == (3, 4, 3)
    assert cut(frame, Box(50, 50, 9, 9)).shape == (1, 1, 3)


def test_the_decision_rule_is_asked_once_for_each_seen_crop(classifier: Classifier, tmp_path: Path) -> None:
    asked = []

    def decide(probabilities: Sequence[float], track: int) -> tuple[str | None, float]:
        asked.append((len(probabilities), track))
        return None, 0.25

    views = list(run(open_source(folder_of(tmp_path / "p", [RED] * 3)), classifier, decide=decide))
    assert asked == [(3, 0)] * 3
    assert views[0].seen[0].label is None
    assert views[0].seen[0].confidence == 0.25


def test_smoothing_averages_the_last_frames_of_a_track(classifier: Classifier, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "p", [RED, RED, GREEN, GREEN, GREEN])
    plain = [view.seen[0].probabilities for view in run(open_source(source), classifier) if view.seen]
    views = run(open_source(source), classifier, options=LoopOptions(smooth=3))
    smooth = [view.seen[0] for view in views if view.seen]
    for at, seen in enumerate(smooth):
        np.testing.assert_allclose(seen.probabilities, np.mean(plain[max(0, at - 2) : at + 1], axis=0), atol=1e-6)
    assert [seen.label for seen in smooth] == ["red", "red", "red", "green", "green"]


def test_the_temperature_of_the_bundle_is_applied(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "p", [RED])
    confidence = []
    for number, thresholds in enumerate(({}, {"temperature": 4.0})):
        folder = make_bundle(tmp_path / f"b{number}", thresholds=thresholds)
        confidence.append(next(run(open_source(source), open_classifier(folder))).seen[0])
    logits = [np.log(seen.probabilities) - np.log(seen.probabilities[0]) for seen in confidence]
    np.testing.assert_allclose(logits[0] / 4, logits[1], atol=1e-5)


def test_it_ends_after_so_many_frames_and_closes_the_source(classifier: Classifier) -> None:
    source = SyntheticSource("s", Wanted(32, 32, 200))
    views = list(run(source, classifier, options=LoopOptions(frames=5)))
    assert [view.state for view in views] == ["live"] * 5
    assert source.read() is None


def test_a_consumer_that_stops_closes_the_source(classifier: Classifier) -> None:
    source = FakeSource([Act("moving", 1000)], fps=500)
    views = run(source, classifier)
    next(views)
    views.close()
    assert source.closed


FAST = LoopOptions(silence_s=0.05, still_s=0.1, back_off=(0.02,))


def states(acts: Sequence[Act], classifier: Classifier) -> list[View]:
    source = FakeSource(acts, fps=200)
    return list(run(source, classifier, options=FAST, reopen=source.reopen))


def changes(views: list[View]) -> list[str]:
    found = [view.state for view in views]
    return [state for at, state in enumerate(found) if at == 0 or state != found[at - 1]]


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (Act("stall", seconds=0.3), "fake has given no frame for 0.05 s"),
        (Act("lost"), "fake is lost (unplugged), trying again in 0.02 s"),
        (Act("absent", 3), "fake is lost (unplugged), trying again in 0.02 s"),
        (Act("black", 60), "fake: black frames for 0 s: is the lens covered?"),
        (Act("frozen", 60), "fake: the same frame for 0 s: the camera has frozen"),
        (Act("yuv", 1), "fake gives another pixel format"),
    ],
)
def test_what_is_wrong_with_a_camera_is_no_signal_and_never_a_label(
    act: Act, told: str, classifier: Classifier
) -> None:
    views = states([Act("moving", 5), act, Act("moving", 5)], classifier)
    assert changes(views) == ["live", "no signal", "live", "ended"]
    silent = [view for view in views if view.state == "no signal"]
    assert told in silent[0].note
    for view in silent:
        assert view.frame is None
        assert view.seen == ()


def test_gray_cameras_are_fine(classifier: Classifier) -> None:
    assert changes(states([Act("gray", 5)], classifier)) == ["live", "ended"]


def test_a_still_picture_from_a_file_is_no_fault(classifier: Classifier) -> None:
    source = FakeSource([Act("frozen", 50), Act("black", 50)], fps=300, live=False)
    assert changes(list(run(source, classifier, options=FAST))) == ["live", "ended"]


def test_averages_start_anew_after_no_signal(classifier: Classifier) -> None:
    source = FakeSource([Act("moving", 3), Act("lost"), Act("moving", 1)], fps=100)
    views = list(run(source, classifier, options=LoopOptions(smooth=100, back_off=(0.02,)), reopen=source.reopen))
    last = [view for view in views if view.seen][-1]
    assert last.frame is not None
    alone = classifier.probabilities(classifier.crops(last.frame.pixels, [last.seen[0].box]))[0]
    np.testing.assert_allclose(last.seen[0].probabilities, alone, atol=1e-6)


def test_a_camera_that_is_lost_for_good_raises_its_error(classifier: Classifier) -> None:
    with pytest.raises(UnavailableError, match="fake is lost"):
        list(run(FakeSource([Act("moving"), Act("lost")]), classifier))


def test_a_damaged_picture_is_told_in_the_next_view(classifier: Classifier, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "p", [RED, RED, RED])
    (tmp_path / "p/1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    views = list(run(open_source(source), classifier))
    assert [view.state for view in views] == ["live", "live", "ended"]
    assert "skipped 1.png" in views[0].note + views[1].note
