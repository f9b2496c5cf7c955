"""Boxes that follow, keep their numbers, and say when the detector must look."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgewise.live.base import Box
from edgewise.live.boxes import iou, mix, pair
from edgewise.live.track import ENOUGH, GRID, PATIENCE, REST, Tracker, moved

boxes = st.builds(Box, *(st.floats(0, 100),) * 2, *(st.floats(1, 100),) * 2)


@given(boxes, boxes)
def test_overlap_is_a_share_that_does_not_ask_who_is_first(one: Box, other: Box) -> None:
    assert 0 <= iou(one, other) <= 1
    assert iou(one, other) == pytest.approx(iou(other, one))
    assert iou(one, one) == pytest.approx(1)


@given(boxes, boxes, st.floats(0.1, 10), st.floats(-50, 50))
def test_overlap_does_not_ask_for_scale_or_place(one: Box, other: Box, scale: float, shift: float) -> None:
    def put(box: Box) -> Box:
        return Box(box.left * scale + shift, box.top * scale + shift, box.width * scale, box.height * scale)

    assert iou(put(one), put(other)) == pytest.approx(iou(one, other), abs=1e-6)


def test_overlap_of_known_boxes() -> None:
    assert iou(Box(0, 0, 2, 2), Box(1, 0, 2, 2)) == pytest.approx(1 / 3)
    assert iou(Box(0, 0, 2, 2), Box(2, 0, 2, 2)) == 0


def test_pairs_take_the_best_overlaps_first_and_each_box_once() -> None:
    ones = [Box(0, 0, 10, 10), Box(4, 0, 10, 10)]
    others = [Box(5, 0, 10, 10), Box(90, 90, 5, 5)]
    assert pair(ones, others, 0.1) == [(1, 0)]
    assert pair(ones, [], 0.1) == []


@given(boxes, boxes, st.floats(0, 1))
def test_a_mix_lies_between(one: Box, other: Box, share: float) -> None:
    between = mix(one, other, share)
    assert min(one.left, other.left) - 1e-9 <= between.left <= max(one.left, other.left) + 1e-9
    assert mix(one, other, 0).left == one.left
    assert mix(one, other, 1).width == pytest.approx(other.width)


@given(
    st.floats(-30, 30), st.floats(-30, 30), st.floats(0.9, 1.1), st.integers(0, int(GRID * GRID * (1 - ENOUGH)) // 2)
)
def test_a_box_goes_where_its_points_go_whatever_a_minority_of_them_does(
    x: float, y: float, growth: float, astray: int
) -> None:
    random = np.random.default_rng(astray)
    box = Box(100, 100, 60, 40)
    middle = np.array([130, 120])
    starts = random.uniform([100, 100], [160, 140], (GRID * GRID, 2)).astype(np.float32)
    starts -= starts.mean(0) - middle
    ends = ((starts - middle) * growth + middle + [x, y]).astype(np.float32)
    ends[: astray // 2] += 500
    after = moved(box, starts, ends)
    assert after is not None
    assert after.left + after.width / 2 == pytest.approx(130 + x, abs=4)
    assert after.top + after.height / 2 == pytest.approx(120 + y, abs=4)
    assert after.width / box.width == pytest.approx(growth, rel=0.03)
    assert after.width / after.height == pytest.approx(1.5)


def test_a_box_with_too_few_points_is_lost() -> None:
    few = np.zeros((int(ENOUGH * GRID * GRID) - 1, 2), np.float32)
    assert moved(Box(0, 0, 9, 9), few, few) is None


def scene(astronaut: Image.Image, left: int, top: int, side: int) -> np.ndarray:
    """A gray wall with the face's part of the photograph at a place."""
    wall = Image.new("RGB", (640, 480), (90, 90, 90))
    wall.paste(astronaut.crop((150, 40, 310, 200)).resize((side, side), Image.Resampling.BILINEAR), (left, top))
    return np.asarray(wall)


def test_a_face_that_moves_and_grows_is_followed_without_the_detector(astronaut: Image.Image) -> None:
    tracker = Tracker(every=1000)
    assert tracker.follow(scene(astronaut, 100, 100, 120))  # nothing is known yet
    tracker.correct([Box(100, 100, 120, 120)])
    for step in range(1, 31):
        left, top, side = 100 + 5 * step, 100 + 2 * step, 120 + step
        due = tracker.follow(scene(astronaut, left, top, side))
        ((number, box),) = tracker.tracks()
        assert number == 1
        assert iou(box, Box(left, top, side, side)) > 0.8, step
        if due and step > 1:
            tracker.correct([box])


def test_the_detector_is_due_every_so_many_frames() -> None:
    tracker = Tracker(every=4)
    frame = np.full((48, 64, 3), 90, np.uint8)
    due = []
    for _ in range(12):
        due.append(tracker.follow(frame))
        if due[-1]:
            tracker.correct([])
    assert due == ["now", "", "", ""] * 3


def test_where_boxes_are_known_the_detector_may_take_its_time(astronaut: Image.Image) -> None:
    tracker = Tracker(every=3)
    frame = scene(astronaut, 100, 100, 120)
    assert tracker.follow(frame) == "now"
    for _ in range(2):  # a box that was found twice is known
        tracker.correct([Box(100, 100, 120, 120)])
    assert [tracker.follow(frame) for _ in range(4)] == ["", "", "soon", "soon"]
    tracker.mark()
    assert [tracker.follow(frame) for _ in range(3)] == ["", "", "soon"]


def test_what_was_found_in_an_earlier_frame_is_brought_to_this_one(astronaut: Image.Image) -> None:
    tracker = Tracker(every=1000)
    tracker.follow(scene(astronaut, 100, 100, 120))
    for _ in range(2):
        tracker.correct([Box(100, 100, 120, 120), Box(165, 165, 50, 50)])
    mark = tracker.mark()
    for step in range(1, 8):
        tracker.follow(scene(astronaut, 100 + 6 * step, 100 + 3 * step, 120))
    tracker.correct([Box(104, 104, 120, 120), Box(105, 110, 50, 50)], mark)
    known, missed, new = tracker.tracks()
    assert (known[0], missed[0], new[0]) == (1, 2, 3)
    assert iou(known[1], Box(102 + 42, 102 + 21, 120, 120)) > 0.9  # half-way to what was found, and moved on
    assert iou(new[1], Box(105 + 42, 110 + 21, 50, 50)) > 0.8
    tracker.correct([Box(144, 123, 120, 120)])
    assert [number for number, _ in tracker.tracks()] == [1]  # missed twice; and new, but not seen again


def test_what_was_found_before_all_was_forgotten_is_left_out(astronaut: Image.Image) -> None:
    tracker = Tracker(every=1000)
    tracker.follow(scene(astronaut, 100, 100, 120))
    mark = tracker.mark()
    tracker.follow(np.zeros((240, 320, 3), np.uint8))  # another size: nothing is known any more
    tracker.correct([Box(100, 100, 120, 120)], mark)
    assert tracker.tracks() == []


def test_a_lamp_that_is_switched_does_not_lose_the_face(astronaut: Image.Image) -> None:
    tracker = Tracker(every=1000)
    for _ in range(2):
        tracker.follow(scene(astronaut, 100, 100, 120))
        tracker.correct([Box(100, 100, 120, 120)])
    for step, light in enumerate((1.0, 0.45, 0.45, 1.0, 0.6, 1.0), 1):
        lit = (scene(astronaut, 100 + 3 * step, 100, 120) * light).astype(np.uint8)
        tracker.follow(lit)
        ((number, box),) = tracker.tracks()
        assert number == 1
        assert iou(box, Box(100 + 3 * step, 100, 120, 120)) > 0.85


def test_every_1_detects_on_each_frame_and_does_not_follow() -> None:
    tracker = Tracker(every=1)
    frame = np.full((48, 64, 3), 90, np.uint8)
    for left in (1, 3, 5):
        assert tracker.follow(frame)
        tracker.correct([Box(left, 1, 9, 9)])
        assert tracker.tracks() == [(1, Box(left, 1, 9, 9))]


def test_a_box_that_is_gone_is_dropped_at_once_and_the_detector_called(astronaut: Image.Image) -> None:
    tracker = Tracker(every=1000)
    for _ in range(2):
        tracker.follow(scene(astronaut, 100, 100, 120))
        tracker.correct([Box(100, 100, 120, 120)])
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    assert tracker.follow(noise)
    assert tracker.tracks() == []


def test_a_new_box_is_looked_at_again_soon_and_a_false_alarm_does_not_stay(astronaut: Image.Image) -> None:
    tracker = Tracker(every=1000)
    frame = scene(astronaut, 100, 100, 120)
    tracker.follow(frame)
    tracker.correct([Box(100, 100, 120, 120), Box(150, 120, 60, 60)])
    assert [tracker.follow(frame) for _ in range(REST)] == [""] * (REST - 1) + ["now"]
    tracker.correct([Box(100, 100, 120, 120)])
    assert [number for number, _ in tracker.tracks()] == [1]
    assert not any(tracker.follow(frame) for _ in range(5 * REST))


def test_much_motion_calls_the_detector_but_not_on_each_frame() -> None:
    tracker = Tracker(every=1000)
    dark, bright = np.full((48, 64, 3), 20, np.uint8), np.full((48, 64, 3), 220, np.uint8)
    tracker.follow(dark)
    tracker.correct([])
    due = [tracker.follow(bright) for _ in range(REST)]
    assert due == [""] * (REST - 1) + ["now"]
    tracker.correct([])
    assert not any(tracker.follow(bright) for _ in range(2 * REST))


def test_a_picture_that_shifts_slowly_behind_a_face_does_not_call_the_detector(astronaut: Image.Image) -> None:
    tracker = Tracker(every=1000)
    face = [Box(100, 100, 120, 120)]
    for _ in range(2):
        tracker.follow(scene(astronaut, 100, 100, 120))
        tracker.correct(face)
    due = []
    for step in range(40):
        frame = scene(astronaut, 100, 100, 120).astype(np.int16)
        frame[:, 300:] += 3 * step
        due.append(tracker.follow(np.clip(frame, 0, 255).astype(np.uint8)))
    assert not any(due)
    cut = scene(astronaut, 100, 100, 120).copy()
    cut[:, 280:] = 10
    assert tracker.follow(cut)
    assert [number for number, _ in tracker.tracks()] == [1]


def test_numbers_stay_and_are_not_used_again() -> None:
    tracker = Tracker(every=1)
    frame = np.full((200, 200, 3), 90, np.uint8)

    def see(*found: Box) -> list[int]:
        tracker.follow(frame)
        tracker.correct(list(found))
        return [number for number, _ in tracker.tracks()]

    one, other = Box(10, 10, 40, 40), Box(120, 120, 40, 40)
    assert see(one, other) == [1, 2]
    assert see(other, one) == [1, 2]
    for _ in range(PATIENCE - 1):
        assert see(Box(14, 10, 40, 40)) == [1, 2]  # a miss of a known box is forgiven
    assert see(one) == [1]
    assert see(one, other) == [1, 3]
    assert see(one) == [1]  # a new one's is not
    tracker.forget()
    assert see(one) == [4]


def test_another_size_of_frames_starts_anew() -> None:
    tracker = Tracker(every=100)
    tracker.follow(np.zeros((48, 64, 3), np.uint8))
    tracker.correct([Box(1, 1, 20, 20)])
    assert tracker.follow(np.zeros((480, 640, 3), np.uint8))
    assert tracker.tracks() == []
