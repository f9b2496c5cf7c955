"""Packed models: the fp32 ONNX file with its few-valued weights stored in as many bits as they need.

The format, and what opens it on a board, is `edgewise.device.packed`. Nothing is lost: before a packed file is written
it is unpacked, and must give the ONNX file byte for byte. See docs/decisions/0016.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgewise.device.packed import (
    CODEBOOK,
    DEFLATED,
    FACTORED,
    FLOATS,
    GRID,
    HALVES,
    MASKED,
    PACKED_HEADER,
    PACKED_LIMIT,
    PACKED_MAGIC,
    PACKED_VERSION,
    RAW,
    RUNS,
    SYMBOLS,
    TRANSPOSED,
    BadPacked,
    read_packed,
    unpack,
)
from edgewise.errors import ExportError
from edgewise.export.base import ExportSpec
from edgewise.export.onnx import OnnxExporter, finished, float_file
from edgewise.runs import write_bytes

if TYPE_CHECKING:
    from edgewise.models import Model

Floats = NDArray[np.float32]

WORTH = 0.9
"""A tensor is stored in another form when that takes at most so much of its plain bytes."""


@dataclass(frozen=True)
class Layer:
    """The weights of a layer as the model has them: float32 (output channels, ...), and what was recorded of them.

    `record` is the layer's part of a `palettize` edit: bits, and scales and centres, or books; empty where there is
    none.
    """

    name: str
    weight: Floats
    record: dict[str, Any] = field(default_factory=dict)


class PackedExporter:
    """See `edgewise.export.base.Exporter`."""

    suffix = ".packed"
    sidecars: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32",)
    schemes: tuple[str, ...] = ()

    def missing(self, precision: str = "") -> str:  # noqa: ARG002 - all need the same
        """What the ONNX exporter needs is all that is needed."""
        return ""

    def can_export(self, model: Model) -> list[str]:
        """Whatever can be written as ONNX can be packed; a net without few-valued weights gains little by it."""
        return OnnxExporter().can_export(model)

    def write(self, model: Model, spec: ExportSpec, path: Path) -> None:
        """Write the fp32 ONNX file, packed.

        Its first layer is as it was trained, with the normalisation before it: taken into the weights, as in plain ONNX
        files, the scale would leave a factor per input channel that the format does not know.
        """
        import onnx

        plain = finished(onnx.load(float_file(model, spec)), model, spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, pack(plain, layers_of(model)))


def layers_of(model: Model) -> list[Layer]:
    """The convolutions and linear layers of a model, with what `palettize` recorded of each."""
    from torch import nn

    records: dict[str, Any] = {}
    for edit in model.structure:
        if edit["edit"] in {"palettize", "qat"}:
            records |= edit["layers"]
    return [
        Layer(name, np.ascontiguousarray(part.weight.detach().cpu().numpy()), records.get(name, {}))
        for name, part in model.module.named_modules()
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Linear)
    ]


def pack(model: bytes, layers: list[Layer]) -> bytes:
    """Pack an ONNX file.

    The weights of each layer are looked for among the file's tensors: as they are, or multiplied by one float32 for
    each output channel, as an exporter writes them that folds batch normalisation into convolutions. What is not found,
    and what no form reproduces to the bit, stays among the literal bytes.

    Args:
        model: the bytes of the ONNX file.
        layers: of the model that was written there.

    Raises:
        ExportError: X35 the file is too large; X36 the packed file does not give it back.
    """
    if len(model) >= PACKED_LIMIT:
        raise ExportError(
            "the model is too large to be packed",
            code="X35",
            why=f"{len(model):,} bytes; at most {PACKED_LIMIT:,}",
            fix="write it as onnx",
        )
    cuts = sorted(_cuts(model, layers), key=lambda cut: cut[0])
    header = PACKED_HEADER.pack(PACKED_MAGIC, PACKED_VERSION, b"\0\0\0", len(model), zlib.crc32(model), len(cuts))
    records, streams, literal, at = b"", b"", b"", 0
    for start, coded in cuts:
        literal += model[at:start]
        records += _varint(start - at) + coded.record
        streams += coded.streams
        at = start + coded.plain
    packed = header + records + _stream(literal + model[at:]) + streams
    try:
        same = unpack(packed) == model
    except BadPacked as problem:
        raise _unfaithful(str(problem)) from problem
    if not same:
        raise _unfaithful("it gives another file")
    return packed


def layout(packed: bytes) -> dict[str, Any]:
    """Where the bytes of a packed file go.

    Returns:
        file, onnx (bytes of the packed and of the ONNX file), skeleton (stored bytes of all outside the tensors: graph,
        names, biases), head (header and records), tensors: for each its kind, rows, columns, bits, and the stored bytes
        of each stream, of the indices also `index_bits`, what they take at a fixed width.

    Raises:
        BadPacked: it is none.
    """
    size, _, skeleton, tensors = read_packed(packed)
    names = ("floats", "halves", "grid", "codebook")
    rows = []
    for tensor in tensors:
        stored = {stream["name"]: stream["stored"] for stream in tensor["streams"]}
        facts = {key: tensor[key] for key in ("rows", "columns", "bits", "groups", "entries", "stored")}
        bits = {FLOATS: 32, HALVES: 16}.get(tensor["kind"], tensor["bits"])
        rows.append(facts | {"kind": names[tensor["kind"]], "index_bits": tensor["stored"] * bits, "streams": stored})
    held = skeleton["stored"] + sum(sum(row["streams"].values()) for row in rows)
    return {
        "file": len(packed),
        "onnx": size,
        "skeleton": skeleton["stored"],
        "head": len(packed) - held,
        "tensors": rows,
    }


def _unfaithful(why: str) -> ExportError:
    return ExportError(
        "the packed file does not give back its model",
        code="X36",
        why=why,
        fix="write the model as onnx, and report this with the model's name",
    )


# ---------------------------------------------------------------------------------------------------------------
# Finding the weights of layers in the file.


@dataclass(frozen=True)
class _Coded:
    """A tensor in some form: its record without the gap, its streams, and the bytes it takes in the ONNX file."""

    record: bytes
    streams: bytes
    plain: int

    @property
    def size(self) -> int:
        return len(self.record) + len(self.streams)


def _cuts(model: bytes, layers: list[Layer]) -> Iterator[tuple[int, _Coded]]:
    """Where a tensor begins in the file, and its form; they do not overlap."""
    import onnx
    from onnx import numpy_helper

    tensors = [one for one in onnx.ModelProto.FromString(model).graph.initializer if one.data_type == 1]
    left = {one.name: numpy_helper.to_array(one) for one in tensors}
    taken: list[tuple[int, int]] = []
    for layer in layers:
        found = _find(layer, left)
        if found is None:
            continue
        name, factors, transposed = found
        raw = left.pop(name).astype("<f4").tobytes()
        coded = _best(layer, factors, transposed)
        start = _place(model, raw, taken)
        if coded.size <= WORTH * len(raw) and start >= 0:
            taken.append((start, start + len(raw)))
            yield start, coded


def _place(model: bytes, raw: bytes, taken: list[tuple[int, int]]) -> int:
    """Where these bytes stand outside of what is taken, -1 when nowhere; any such place is as good as another."""
    at = model.find(raw)
    while at >= 0:
        clash = [end for start, end in taken if start < at + len(raw) and at < end]
        if not clash:
            return at
        at = model.find(raw, max(clash))
    return -1


def _find(layer: Layer, tensors: dict[str, Floats]) -> tuple[str, Floats | None, bool] | None:
    """The tensor that holds a layer's weights: its name, the factors of its rows (None when all are 1), transposed?"""
    weight = layer.weight.reshape(len(layer.weight), -1)
    for name, tensor in tensors.items():
        for turned in (False, True) if tensor.ndim == 2 else (False,):
            upright = np.ascontiguousarray(tensor.T) if turned else tensor
            if upright.shape != layer.weight.shape:
                continue
            factors = _factors(weight, upright.reshape(weight.shape))
            if factors is not None:
                return name, None if (factors == 1).all() else factors, turned
    return None


def _factors(weight: Floats, product: Floats) -> Floats | None:
    """float32 (rows,) that give `product` when `weight` is multiplied by them in float32, to the bit; or None."""
    for rows in (slice(0, 1), slice(None)):  # most tensors that do not fit are told by their first row
        some, target = weight[rows], product[rows]
        at = (np.arange(len(some)), np.abs(some).argmax(1))
        zero = some[at] == 0
        with np.errstate(all="ignore"):
            near = (target[at].astype(np.float64) / np.where(zero, 1, some[at])).astype(np.float32)
        near = np.where(zero, np.where(np.signbit(target[:, 0]), np.float32(-1), np.float32(1)), near)
        found = np.full(len(some), np.nan, np.float32)
        for step in (0, 1, -1, 2, -2):  # the quotient was rounded; the factor is next to it
            tried = np.ascontiguousarray(_bits(near) + np.int32(step)).view(np.float32)
            with np.errstate(all="ignore"):
                fits = (_bits(some * tried[:, None]) == _bits(target)).all(1) & np.isnan(found)
            found = np.where(fits, tried, found)
        if np.isnan(found).any():
            return None
    return np.ascontiguousarray(found, np.float32)


def _bits(values: Any) -> NDArray[np.int32]:
    return np.ascontiguousarray(values, np.float32).view(np.int32)


# ---------------------------------------------------------------------------------------------------------------
# The forms of a tensor.


def _best(layer: Layer, factors: Floats | None, transposed: bool) -> _Coded:
    """The smallest of the forms that give the weights to the bit."""
    weight = layer.weight.reshape(len(layer.weight), -1)
    rows, columns = weight.shape
    flags = (FACTORED if factors is not None else 0) | (TRANSPOSED if transposed else 0)
    front = b"" if factors is None else _stream(factors.astype("<f4").tobytes())
    zeros = _bits(weight) == 0
    forms = []
    for masked in (False, True) if zeros.any() else (False,):
        keep = ~zeros if masked else np.ones_like(zeros)
        places = [(0, b"", b"")] if not masked else list(_masks(keep))
        more, extra, mask = min(places, key=lambda place: len(place[1]) + len(place[2]))
        count = _varint(int(keep.sum())) if masked else b""
        for kind, numbers, streams in _forms(weight, keep, layer.record):
            record = bytes([kind | flags | more]) + _varint(rows) + _varint(columns) + numbers + count + extra
            forms.append(_Coded(record, mask + front + streams, 4 * weight.size))
    return min(forms, key=lambda form: form.size)


def _masks(keep: NDArray[np.bool_]) -> Iterator[tuple[int, bytes, bytes]]:
    """Ways to say which weights are stored: flags, further numbers of the record, stream."""
    flat = keep.reshape(-1)
    yield MASKED, b"", _stream(np.packbits(flat).tobytes())
    gaps = np.diff(np.flatnonzero(flat), prepend=-1) - 1
    long = gaps // 255
    runs = np.full(len(gaps) + int(long.sum()), 255, np.uint8)
    runs[np.cumsum(long + 1) - 1] = gaps % 255
    yield MASKED | RUNS, _varint(len(runs)), _stream(runs.tobytes())


def _forms(weight: Floats, keep: NDArray[np.bool_], record: dict[str, Any]) -> Iterator[tuple[int, bytes, bytes]]:
    """Ways to store the weights that are kept: kind, numbers of the record, streams; each gives them to the bit."""
    values = weight[keep]
    yield FLOATS, b"", _stream(values.astype("<f4").tobytes())
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if (_bits(halves.astype(np.float32)) == _bits(values)).all():
        yield HALVES, b"", _stream(halves.astype("<f2").tobytes())
    row = np.nonzero(keep)[0]
    if "scales" in record:
        yield from _grid(values, row, record)
    if "books" in record:
        yield from _book(values, row, len(weight), np.asarray(record["books"], np.float32), record["bits"])
    distinct = np.unique(_bits(values))
    if 0 < len(distinct) <= 256:
        bits = max(1, (len(distinct) - 1).bit_length())
        yield from _book(values, row, len(weight), distinct.view(np.float32)[None], bits)


def _grid(values: Floats, row: NDArray[np.int64], record: dict[str, Any]) -> Iterator[tuple[int, bytes, bytes]]:
    bits = record["bits"]
    scales, centres = np.asarray(record["scales"], np.float32), np.asarray(record["centres"], np.int32)
    if len(scales) <= row.max(initial=0) or (_bits(scales) & 0xFFFF).any():
        return
    steps = np.rint(values.astype(np.float64) / scales[row]).astype(np.int64)
    index = (steps + centres[row]) // 2
    again = scales[row] * (2 * index - centres[row]).astype(np.float32)
    if not ((index >= 0) & (index < 1 << bits) & (_bits(again) == _bits(values))).all():
        return
    tables = _stream((_bits(scales) >> 16).astype("<u2").tobytes()) + _stream(centres.astype("<i2").tobytes())
    yield GRID, _varint(bits), tables + _symbols(index.astype(np.uint8), bits)


def _book(
    values: Floats, row: NDArray[np.int64], rows: int, books: Floats, bits: int
) -> Iterator[tuple[int, bytes, bytes]]:
    groups, entries = books.shape
    index = np.zeros(len(values), np.uint8)
    group = row * groups // rows
    for number, book in enumerate(books):
        order = np.argsort(_bits(book), kind="stable")
        places = np.searchsorted(_bits(book)[order], _bits(values[group == number]))
        index[group == number] = order[np.minimum(places, entries - 1)]
    if entries > 1 << bits or not (_bits(books[group, index]) == _bits(values)).all():
        return
    numbers = _varint(bits) + _varint(groups) + _varint(entries)
    yield CODEBOOK, numbers, _stream(books.astype("<f4").tobytes()) + _symbols(index, bits)


# ---------------------------------------------------------------------------------------------------------------
# Streams.


def _stream(raw: bytes) -> bytes:
    """Bytes as they are, or deflated where that is shorter."""
    return _shortest([(RAW, raw), *((DEFLATED, one) for one in _deflated(raw))])


def _symbols(index: NDArray[np.uint8], bits: int) -> bytes:
    """Indices in so many bits each; or deflated, as bits or one a byte (Huffman codes near their entropy then)."""
    spread = (index[:, None] >> np.arange(bits - 1, -1, -1, dtype=np.uint8)) & 1
    raw = np.packbits(spread.astype(np.uint8)).tobytes()
    ways = [(RAW, raw), *((DEFLATED, one) for one in _deflated(raw))]
    return _shortest(ways + [(SYMBOLS, one) for one in _deflated(index.tobytes())])


def _deflated(raw: bytes) -> Iterator[bytes]:
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY):
        squeeze = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
        yield squeeze.compress(raw) + squeeze.flush()


def _shortest(ways: list[tuple[int, bytes]]) -> bytes:
    coding, chunk = min(ways, key=lambda way: len(way[1]))
    return _varint(4 * len(chunk) + coding) + chunk


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    groups.append(value)
    return bytes(groups)
