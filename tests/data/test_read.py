"""Reading one file: every damage is a reason in one line, never an exception and never wrong pixels."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgewise.data.read import read
from edgewise.data.walk import shown, sniff
from tests.data.loading import SPEC, picture

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    picture("x").save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_accepted_format_is_known_by_its_first_bytes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(encoded(kind))
    reading, pixels = read(path, SPEC.preprocessing())
    assert (reading.kind, reading.problem) == (kind, "")
    assert reading.sha256 == hashlib.sha256(encoded(kind)).hexdigest()
    assert pixels is not None
    assert pixels.shape == SPEC.shape


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of metadata; `each` silences them
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(FORMATS), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6), st.floats(0, 1)
)
def test_damage_is_a_reason_or_still_an_image(
    tmp_path: Path, kind: str, changes: list[tuple[float, int]], kept: float
) -> None:
    data = bytearray(encoded(kind))
    for place, value in changes:
        data[int(place * len(data))] = value
    data = data[: int(len(data) * max(kept, 0.05))]
    path = tmp_path / "damaged"
    path.write_bytes(bytes(data))
    reading, pixels = read(path, SPEC.preprocessing())
    assert reading.sha256 == hashlib.sha256(bytes(data)).hexdigest()
    assert (pixels is None) == bool(reading.problem)
    assert "\n" not in reading.problem
    assert "0x" not in reading.problem  # no addresses of objects: the words are the same every time
    if pixels is not None:
        assert pixels.shape == SPEC.shape


@given(st.binary(max_size=20))
def test_sniff_takes_any_bytes(head: bytes) -> None:
    assert sniff(head) in {"", *FORMATS}


@given(st.text(st.characters(), max_size=30))
def test_shown_names_can_be_stored_and_take_one_line(name: str) -> None:
    text = shown(name)
    assert len(text.splitlines()) <= 1
    assert text.encode("utf-8").decode("utf-8") == text
    assert shown(text) == text
    if name.isascii() and name.isprintable():
        assert text == name


def test_shown_writes_bytes_that_are_no_utf8() -> None:
    assert shown(b"caf\xe9\n\x1b[31m".decode("utf-8", "surrogateescape")) == r"caf\xe9\n\x1b[31m"
    assert shown("naïve 猫 👩‍🔬.png") == "naïve 猫 👩‍🔬.png"
    assert shown("a\u202eb") == r"a\u202eb"
