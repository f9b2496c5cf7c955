"""Unpacking: a file written by hand, byte by byte, gives what its format says; damaged and hostile ones are refused."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.export.holding import model_of
from tiny import SIZE, make_bundle, write_model

from edgewise.bundle import Manifest, read_manifest, write_bundle
from edgewise.device import RUNTIMES, packed, runner
from edgewise.device.check import check_bundle
from edgewise.device.packed import BadPacked, unpack
from edgewise.device.standalone import runner_source
from edgewise.errors import UntrustedError
from edgewise.export.packed import Layer, pack


def raw(chunk: bytes) -> bytes:
    assert len(chunk) < 32
    return bytes([4 * len(chunk)]) + chunk


def deflated(chunk: bytes, coding: int = 1) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    small = squeeze.compress(chunk) + squeeze.flush()
    assert len(small) < 32
    return bytes([4 * len(small) + coding]) + small


def header(model: bytes, tensors: int, size: int | None = None) -> bytes:
    return struct.pack("<4sB3xIII", b"EWPK", 1, len(model) if size is None else size, zlib.crc32(model), tensors)


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


# --- The format, written by hand from its description ------------------------------------------------------------

GRID_ROWS = floats(-1.5, 0.5, 1.5) + floats(0, 4, 8)
"""scale 0.5, centre 3: codes 0 2 3 -> -3 1 3; scale 2, centre 4, codes 2 3 4 -> 0 2 4 -> 0 4 8, in three bits."""


def grid_file(model: bytes = b"ab" + GRID_ROWS + b"c") -> bytes:
    record = bytes([2, 2, 2, 3, 3])  # gap, grid, rows, columns, bits
    codes = 0b000_010_011_010_011_100 << 6
    streams = [
        raw(b"abc"),
        raw(struct.pack("<HH", 0x3F00, 0x4000)),
        raw(struct.pack("<hh", 3, 4)),
        raw(codes.to_bytes(3, "big")),
    ]
    return header(model, 1) + record + b"".join(streams)


def test_a_grid_written_by_hand() -> None:
    assert unpack(grid_file()) == b"ab" + GRID_ROWS + b"c"


def test_a_masked_codebook_with_factors_transposed_and_one_index_a_byte() -> None:
    """Rows (0, 7), (5, 0), times 2 and -1: 0 14; -5 and a negative zero; stored column by column."""
    model = floats(0, -5, 14, -0.0)
    record = bytes([0, 3 | 16 | 32 | 64, 2, 2, 1, 1, 2, 2])  # gap, kind, rows, columns, bits, groups, entries, stored
    streams = [raw(b""), raw(bytes([0b0110_0000])), raw(floats(2, -1)), raw(floats(5, 7)), deflated(b"\1\0", 2)]
    assert unpack(header(model, 1) + record + b"".join(streams)) == model


def test_run_lengths_with_a_long_gap_and_halves() -> None:
    """Weight 3, then 300 zeros, then weight -2, then zeros to the end."""
    values = np.zeros(400, "<f4")
    values[3], values[304] = 1.5, -2
    model = values.tobytes() + b"!"
    record = bytes([0, 1 | 16 | 128, 1, 0x90, 3, 2, 3])  # 400 = 3 x 128 + 16; two stored, three run bytes
    streams = [raw(b"!"), raw(bytes([3, 255, 45])), raw(np.array([1.5, -2], "<f2").tobytes())]
    assert unpack(header(model, 1) + record + b"".join(streams)) == model


def test_codebooks_of_row_groups_and_deflated_bits() -> None:
    model = floats(1, 2) + floats(2, 1) + floats(4, 4) + floats(3, 3)
    record = bytes([0, 3, 4, 2, 1, 2, 2])  # four rows, two codebooks of two entries
    streams = [raw(b""), raw(floats(1, 2, 3, 4)), deflated(bytes([0b0110_1100]))]
    assert unpack(header(model, 1) + record + b"".join(streams)) == model


# --- Refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: b"", "too few"),
        (lambda data: b"X" + data[1:], "does not begin like"),
        (lambda data: data[:4] + b"\2" + data[5:], "version 2; this is read: 1"),
        (lambda data: data[:5] + b"\1" + data[6:], "does not begin like"),
        (lambda data: data[:8] + struct.pack("<I", 1 << 31) + data[12:], "claim to hold 2147483648"),
        (lambda data: data[:16] + struct.pack("<I", 1 << 31) + data[20:], "tensors in"),
        (lambda data: data[:12] + b"0000" + data[16:], "not the one that was packed"),
        (lambda data: data[:21] + bytes([7]) + data[22:], "a tensor of kind 7"),
        (lambda data: data[:21] + bytes([2 | 128]) + data[22:], "a tensor of kind 130"),
        (lambda data: data[:22] + b"\0" + data[23:], "with 0 x 3 weights"),
        (lambda data: data[:22] + b"\x7f" + data[23:], "the tensors are larger than the model"),
        (lambda data: data[:24] + b"\x09" + data[25:], "indices of 9 bits"),
        (lambda data: data[:-1], "does not have the length it should"),
        (lambda data: data + b"\0", "1 bytes too many"),
        (lambda data: data[:20] + b"\xff" * 6, "a number is too large"),
        (lambda data: data[:22], "ends in the middle"),
    ],
)
def test_what_does_not_add_up_is_refused_with_the_reason(change: object, why: str) -> None:
    with pytest.raises(BadPacked, match=why):
        unpack(change(grid_file()))  # type: ignore[operator]


def test_indices_behind_their_codebook_or_width_are_refused() -> None:
    model = floats(1, 1, 1, 1)
    record = bytes([0, 3, 1, 4, 2, 1, 3])  # three entries in two bits
    for codes in (raw(bytes([0b00_01_10_11])), deflated(b"\0\1\2\3", 2)):
        with pytest.raises(BadPacked, match="behind its codebook"):
            unpack(header(model, 1) + record + raw(b"") + raw(floats(1, 2, 3)) + codes)
    with pytest.raises(BadPacked, match="more bits than it should"):
        unpack(header(model, 1) + record + raw(b"") + raw(floats(1, 2, 3)) + deflated(b"\0\1\2\4", 2))


@pytest.mark.parametrize(
    ("mask", "why"),
    [(bytes([0b1000_0000]), "does not leave"), (bytes([0b1100_0001]), "longer than its tensor")],
)
def test_masks_that_lie_are_refused(mask: bytes, why: str) -> None:
    model = floats(1, 1, 0, 0)
    record = bytes([0, 16, 1, 4, 2])
    with pytest.raises(BadPacked, match=why):
        unpack(header(model, 1) + record + raw(b"") + raw(mask + b"") + raw(floats(1, 1)))


def test_runs_that_lead_behind_the_tensor_are_refused() -> None:
    record = bytes([0, 16 | 128, 1, 4, 1, 1])
    with pytest.raises(BadPacked, match="does not leave"):
        unpack(header(floats(0, 0, 0, 1), 1) + record + raw(b"") + raw(bytes([4])) + raw(floats(1)))


def test_a_bomb_takes_no_more_memory_than_it_may_claim() -> None:
    """A stream that would inflate to 64 MB where three bytes belong, and a model that claims 512 times its file."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    small = squeeze.compress(b"\0" * (64 << 20)) + squeeze.flush()
    head = 4 * len(small) + 1
    varint = bytes([head & 127 | 128, head >> 7 & 127 | 128, head >> 14])
    bomb = header(b"abc", 0) + varint + small
    tracemalloc.start()
    started = time.monotonic()
    with pytest.raises(BadPacked, match="does not hold the 3 bytes"):
        unpack(bomb)
    for claim in (header(b"", 0, size=len(bomb) * 512 + (1 << 16) + 1) + varint + small,):
        with pytest.raises(BadPacked, match="claim to hold"):
            unpack(claim)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert time.monotonic() - started < 5


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(WHOLE)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(["flip", "cut", "grow", "set"])):
            case "flip":
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + draw(st.integers(1, 9))]
            case "grow":
                data[at:at] = draw(st.binary(min_size=1, max_size=9))
            case _:
                data[at] = draw(st.sampled_from([0, 1, 127, 128, 255]))
        if not data:
            break
    return bytes(data)


def _whole() -> bytes:
    random = np.random.default_rng(0)
    sparse = np.where(random.random((6, 40)) < 0.1, random.choice([0.25, -0.5], (6, 40)), 0).astype(np.float32)
    few = random.choice(np.array([-1, 0.125, 3], np.float32), (5, 7))
    model = model_of({"a": sparse, "b": few})
    return pack(model, [Layer("a", sparse), Layer("b", few)])


WHOLE = _whole()


@settings(max_examples=400, deadline=None)
@given(data=damaged())
def test_damage_is_refused_or_harmless(data: bytes) -> None:
    """Whatever is done to the bytes: the model comes out as it was, or BadPacked; nothing else."""
    try:
        model = unpack(data)
    except BadPacked:
        return
    assert zlib.crc32(model) == struct.unpack_from("<I", data, 12)[0]


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    for begun in (data, packed.PACKED_HEADER.pack(b"EWPK", 1, b"\0\0\0", len(data), 0, 1) + data):
        with pytest.raises(BadPacked):
            unpack(begun)


# --- The runtime, the bundle, the runner -------------------------------------------------------------------------


def packed_bundle(folder: Path, data: bytes | None = None) -> Path:
    """The bundle of `tiny`, with its model packed."""
    plain = read_manifest(make_bundle(folder))
    facts = {**vars(plain), "format": "packed", "model_file": "model.packed", "files": {}}
    weights = np.eye(3, dtype=np.float32) * 2 / 255
    model = folder / "small.packed"
    model.write_bytes(
        pack(write_model(folder / "m.onnx").read_bytes(), [Layer("w", weights)]) if data is None else data
    )
    write_bundle(folder / "small", Manifest(**facts), model, {"runner.py": runner_source()})
    return folder / "small"


def test_the_runtime_answers_like_onnxruntime_on_the_plain_file(tmp_path: Path) -> None:
    bundle = packed_bundle(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    session = RUNTIMES["packed"].load(bundle / "model.packed")
    plain = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"image": images})[0]
    assert np.array_equal(session.scores(images), plain)
    assert session.describe()["runtime"] == "onnxruntime"
    assert RUNTIMES["packed"].version() == onnxruntime.__version__
    assert check_bundle(bundle)["classes"] == 3


def test_the_shipped_runner_runs_a_packed_bundle_alone(tmp_path: Path) -> None:
    bundle = packed_bundle(tmp_path)
    Image.new("RGB", (20, 20), (10, 200, 30)).save(tmp_path / "p.png")
    done = subprocess.run(
        [sys.executable, bundle / "runner.py", "classify", tmp_path / "p.png"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["label"] == "green"


def test_a_damaged_packed_model_is_refused_by_runtime_and_runner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = packed_bundle(tmp_path, grid_file()[:-1])
    with pytest.raises(UntrustedError, match="damaged") as caught:
        RUNTIMES["packed"].load(bundle / "model.packed")
    assert (caught.value.code, caught.value.exit_code) == ("U53", 6)
    assert runner.main(["classify", "--bundle", str(bundle), "x.png"]) == 6
    told = capsys.readouterr().err
    assert told.startswith("error[U53]: this packed model is damaged")
    assert "does not have the length it should" in told


def test_a_packed_file_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UntrustedError) as caught:
        RUNTIMES["packed"].load(packed_bundle(tmp_path, grid_file()) / "model.packed")
    assert caught.value.code == "U61"
