"""The test video, and what tracking sees in it beside a detector that runs on each frame."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from edgewise.live.boxes import iou, pair
from edgewise.live.detect import open_detector
from edgewise.live.testing import DIM, FRAMES, FULL, SIZE, SWITCH, face, frame, frames, pose
from edgewise.live.track import Tracker


def test_the_same_frames_come_out_again(astronaut: Image.Image) -> None:
    once, again = list(frames(astronaut, 2, 7)), list(frames(astronaut, 2, 7))
    np.testing.assert_array_equal(once, again)
    assert once[0].shape == (SIZE[1], SIZE[0], 3)
    assert (once[0] != once[1]).any()


def test_the_face_moves_changes_its_size_and_its_light() -> None:
    poses = [pose(number) for number in range(FRAMES)]
    sides = [one.side for one in poses]
    assert max(sides) / min(sides) > 1.3
    assert max(one.left for one in poses) - min(one.left for one in poses) > SIZE[0] / 4
    assert {FULL, DIM} <= {one.light for one in poses}
    steps = [abs(one.left - other.left) for one, other in itertools.pairwise(poses)]
    assert 0 < max(steps) < 16


@pytest.mark.slow
def test_following_sees_what_detecting_on_each_frame_sees(astronaut: Image.Image) -> None:
    detector = open_detector("haar", 320)
    assert detector is not None
    tracker = Tracker(every=10)
    count, detections, same, numbers = 70, 0, 0, set()
    for number in range(SWITCH - 30, SWITCH - 30 + count):
        pixels = frame(astronaut, number)
        found = detector.find(pixels)
        if tracker.follow(pixels):
            tracker.correct(found)
            detections += 1
        tracks = tracker.tracks()
        surest = pair(found[:1], [box for _, box in tracks], 0.6)  # the others are false alarms of a frame
        numbers |= {tracks[at][0] for _, at in surest}
        assert not found or iou(found[0], face(number)) > 0.5
        same += len(surest) == len(found[:1])
    assert detections <= count / 5
    assert same >= 0.95 * count
    assert len(numbers) <= 2  # the switch of the light may cost the face its number
