"""Packed models: an ONNX file whose few-valued weights are stored in as many bits as they need, without any loss.

``unpack`` gives back the bytes of the ONNX file, every one of them. Only numpy and the standard library are needed, and
the syntax is that of Python 3.6, because this file is copied into every bundle's ``runner.py``. The file is read as
data from strangers: each length is checked before anything is allocated, and whatever does not add up is `BadPacked`.

The layout, version 1; numbers of more than one byte are little endian, ``varint`` is LEB128 (seven bits a byte, the
lowest first)::

    magic        4 bytes   EWPK
    version      1 byte    1
    zero         3 bytes
    size         4 bytes   of the ONNX file
    crc32        4 bytes   of the ONNX file
    tensors      4 bytes   how many records follow
    records, one for each tensor, in the order in which they stand in the ONNX file:
        gap      varint    bytes of the ONNX file between the tensor before (or the start) and this one
        kind     1 byte    0 floats, 1 halves, 2 grid, 3 codebook; + 16 masked, 32 factored, 64 transposed, 128 runs
        rows     varint    output channels
        columns  varint    weights of one channel
        bits     varint    of an index, 1 to 8        (grid and codebook)
        groups   varint    codebooks, each for as many neighbouring rows     (codebook)
        entries  varint    values of a codebook, at most 2^bits              (codebook)
        stored   varint    weights that are not left out by the mask         (masked)
        runs     varint    bytes of the run lengths                          (runs)
    streams: the skeleton, which is all bytes of the ONNX file outside the tensors, then those of each tensor:
        mask     a bit for each weight, most significant first, set where a weight is stored      (masked, not runs)
        runs     weights left out before each stored one, one byte each; 255 stands for 255 left out and none
                 stored                                                                           (runs)
        factors  float32 for each row                                                             (factored)
        scales   the upper two bytes of a float32 for each row                                    (grid)
        centres  int16 for each row                                                               (grid)
        books    float32, groups x entries                                                        (codebook)
        values   float32, float16, or an index for each stored weight, row by row

A stream is a varint, 4 x stored bytes + coding, and its bytes. Coding 0: as they are, an index in `bits` bits, most
significant first. Coding 1: the same in raw deflate. Coding 2: one byte for each index, in raw deflate.

A weight that is left out is 0. Of a grid an index i stands for scale x (2 i - centre), of a codebook for its entry
number i. Where there are factors, each weight is then multiplied by that of its row: this is how an exporter folds
batch normalisation into a convolution, and float32 does it the same way everywhere. A transposed tensor stands in the
ONNX file column by column.
"""

import struct
import zlib
from typing import Any, Dict, List, Tuple

import numpy as np

PACKED_MAGIC = b"EWPK"
PACKED_VERSION = 1
PACKED_HEADER = struct.Struct("<4sB3sIII")
PACKED_LIMIT = 1 << 29  # bytes of the ONNX file
PACKED_RATIO = 512  # the ONNX file may be so many times larger than the packed one, and 64 KiB more
FLOATS, HALVES, GRID, CODEBOOK = 0, 1, 2, 3
MASKED, FACTORED, TRANSPOSED, RUNS = 16, 32, 64, 128
RAW, DEFLATED, SYMBOLS = 0, 1, 2


class BadPacked(ValueError):
    """A packed file that is damaged, cut short or built to do harm, with the reason in one line."""


def unpack(data: bytes) -> bytes:
    """The ONNX file in a packed one, byte for byte.

    Raises:
        BadPacked: anything in it does not add up; no more memory than the file may ask for was taken.
    """
    size, crc, skeleton, tensors = read_packed(data)
    literal = _stream_bytes(data, skeleton)
    parts, at = [], 0  # type: Tuple[List[bytes], int]
    for tensor in tensors:
        parts.append(literal[at : at + tensor["gap"]])
        parts.append(_tensor_bytes(data, tensor))
        at += tensor["gap"]
    parts.append(literal[at:])
    whole = b"".join(parts)
    if len(whole) != size or zlib.crc32(whole) & 0xFFFFFFFF != crc:
        raise BadPacked("the unpacked model is not the one that was packed")
    return whole


def read_packed(data: bytes) -> Tuple[int, int, Dict[str, Any], List[Dict[str, Any]]]:
    """Find everything in a packed file without unpacking it.

    Returns:
        Bytes of the ONNX file, its crc32, the skeleton's stream, and the records with their streams. A stream is a dict
        of ``name``, ``start``, ``stored`` (bytes in the file), ``coding``, ``length`` (bytes it stands for; of
        indices, as packed bits), ``count`` and ``bits`` (of indices).

    Raises:
        BadPacked: the header, a record or a length is wrong, or bytes are missing or left over.
    """
    if len(data) < PACKED_HEADER.size:
        raise BadPacked("{} bytes are too few for a packed model".format(len(data)))
    magic, version, zero, size, crc, count = PACKED_HEADER.unpack_from(data)
    if magic != PACKED_MAGIC or zero != b"\0\0\0":
        raise BadPacked("it does not begin like a packed model")
    if version != PACKED_VERSION:
        raise BadPacked("version {}; this is read: {}".format(version, PACKED_VERSION))
    if size > min(PACKED_LIMIT, PACKED_RATIO * len(data) + (1 << 16)):
        raise BadPacked("{} bytes claim to hold {}".format(len(data), size))
    if count > len(data) // 4:  # a record has four bytes at least
        raise BadPacked("{} tensors in {} bytes".format(count, len(data)))
    at, left, tensors = PACKED_HEADER.size, size, []
    for _ in range(count):
        tensor, at = _record(data, at)
        left -= tensor["gap"] + 4 * tensor["rows"] * tensor["columns"]
        if left < 0:
            raise BadPacked("the tensors are larger than the model")
        tensors.append(tensor)
    literal = left + sum(tensor["gap"] for tensor in tensors)
    skeleton, at = _find_stream(data, at, "skeleton", literal)
    for tensor in tensors:
        for name, length, values, bits in _contents(tensor):
            found, at = _find_stream(data, at, name, length, values, bits)
            tensor["streams"].append(found)
    if at != len(data):
        raise BadPacked("{} bytes too many".format(len(data) - at))
    return size, crc, skeleton, tensors


def _record(data: bytes, at: int) -> Tuple[Dict[str, Any], int]:
    """One tensor's record with all its numbers checked, and where the next one begins."""
    gap, at = _read_number(data, at)
    if at >= len(data):
        raise BadPacked("it ends in the middle of a record")
    kind, flags, at = data[at] & 15, data[at] & 240, at + 1
    rows, at = _read_number(data, at)
    columns, at = _read_number(data, at)
    if kind > CODEBOOK or not rows or not columns or (flags & RUNS and not flags & MASKED):
        raise BadPacked("a tensor of kind {} with {} x {} weights".format(kind | flags, rows, columns))
    bits = groups = entries = runs = 0
    if kind in (GRID, CODEBOOK):
        bits, at = _read_number(data, at)
        if not 1 <= bits <= 8:
            raise BadPacked("indices of {} bits".format(bits))
    if kind == CODEBOOK:
        groups, at = _read_number(data, at)
        entries, at = _read_number(data, at)
        if not 1 <= groups <= rows or not 1 <= entries <= 1 << bits:
            raise BadPacked("{} codebooks of {} values for {} rows".format(groups, entries, rows))
    stored = rows * columns
    if flags & MASKED:
        stored, at = _read_number(data, at)
        if stored > rows * columns:
            raise BadPacked("{} of {} weights are stored".format(stored, rows * columns))
    if flags & RUNS:
        runs, at = _read_number(data, at)
        if not stored <= runs <= stored + rows * columns // 255:
            raise BadPacked("{} run lengths for {} weights".format(runs, stored))
    tensor = {"gap": gap, "kind": kind, "flags": flags, "rows": rows, "columns": columns}  # type: Dict[str, Any]
    tensor.update({"stored": stored, "bits": bits, "groups": groups, "entries": entries, "runs": runs, "streams": []})
    return tensor, at


def _contents(tensor: Dict[str, Any]) -> List[Tuple[str, int, int, int]]:
    """The streams of a tensor in order: name, bytes it stands for, and of indices how many and of how many bits."""
    kind, flags, rows, stored = tensor["kind"], tensor["flags"], tensor["rows"], tensor["stored"]
    found = []
    if flags & RUNS:
        found.append(("runs", tensor["runs"], 0, 0))
    elif flags & MASKED:
        found.append(("mask", -(-rows * tensor["columns"] // 8), 0, 0))
    if flags & FACTORED:
        found.append(("factors", 4 * rows, 0, 0))
    if kind == GRID:
        found += [("scales", 2 * rows, 0, 0), ("centres", 2 * rows, 0, 0)]
    if kind == CODEBOOK:
        found.append(("books", 4 * tensor["groups"] * tensor["entries"], 0, 0))
    if kind in (GRID, CODEBOOK):
        found.append(("values", -(-stored * tensor["bits"] // 8), stored, tensor["bits"]))
    else:
        found.append(("values", stored * (4 if kind == FLOATS else 2), 0, 0))
    return found


def _find_stream(
    data: bytes, at: int, name: str, length: int, count: int = 0, bits: int = 0
) -> Tuple[Dict[str, Any], int]:
    head, at = _read_number(data, at)
    coding, stored = head & 3, head >> 2
    if coding > (SYMBOLS if bits else DEFLATED) or stored > len(data) - at or (coding == RAW and stored != length):
        raise BadPacked('the stream "{}" does not have the length it should'.format(name))
    found = {"name": name, "start": at, "stored": stored, "coding": coding}
    found.update({"length": length, "count": count, "bits": bits})
    return found, at + stored


def _read_number(data: bytes, at: int) -> Tuple[int, int]:
    """A number of at most 35 bits, and where it ends."""
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            raise BadPacked("it ends in the middle of a number")
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise BadPacked("a number is too large")


def _stream_bytes(data: bytes, stream: Dict[str, Any]) -> bytes:
    """The bytes of a stream; of symbols, one for each."""
    chunk = data[stream["start"] : stream["start"] + stream["stored"]]
    if stream["coding"] == RAW:
        return chunk
    length = stream["count"] if stream["coding"] == SYMBOLS else stream["length"]
    inflate = zlib.decompressobj(-15)
    try:
        found = inflate.decompress(chunk, length + 1)  # one more than there should be, never a bomb
    except zlib.error as problem:
        raise BadPacked('the stream "{}": {}'.format(stream["name"], problem)) from None
    if len(found) != length or not inflate.eof or inflate.unused_data:
        raise BadPacked('the stream "{}" does not hold the {} bytes it should'.format(stream["name"], length))
    return found


def _tensor_bytes(data: bytes, tensor: Dict[str, Any]) -> bytes:
    """The float32 weights of a tensor as they stand in the ONNX file."""
    rows, columns, kind = tensor["rows"], tensor["columns"], tensor["kind"]
    streams = {stream["name"]: stream for stream in tensor["streams"]}
    where = _stored_places(data, tensor, streams)
    row = np.arange(rows)[:, None] if where is None else where // columns
    if kind in (FLOATS, HALVES):
        values = np.frombuffer(_stream_bytes(data, streams["values"]), "<f4" if kind == FLOATS else "<f2")
        values = values.astype(np.float32)
    else:
        index = _indices(data, streams["values"])
        index = index.reshape(rows, columns) if where is None else index
        if kind == GRID:
            high = np.frombuffer(_stream_bytes(data, streams["scales"]), "<u2").astype(np.uint32)
            scales = (high << np.uint32(16)).view(np.float32)
            centres = np.frombuffer(_stream_bytes(data, streams["centres"]), "<i2").astype(np.int32)
            with np.errstate(all="ignore"):  # a damaged file may hold anything; its crc32 will tell
                values = scales[row] * (2 * index.astype(np.int32) - centres[row]).astype(np.float32)
        else:
            if index.size and int(index.max()) >= tensor["entries"]:
                raise BadPacked("an index points behind its codebook")
            books = np.frombuffer(_stream_bytes(data, streams["books"]), "<f4").astype(np.float32)
            values = books[row * tensor["groups"] // rows * tensor["entries"] + index]
    if where is None:
        weights = values.reshape(rows, columns)
    else:
        weights = np.zeros(rows * columns, np.float32)
        weights[where] = values
        weights = weights.reshape(rows, columns)
    if tensor["flags"] & FACTORED:
        factors = np.frombuffer(_stream_bytes(data, streams["factors"]), "<f4").astype(np.float32)
        with np.errstate(all="ignore"):
            weights = weights * factors[:, None]
    if tensor["flags"] & TRANSPOSED:
        weights = weights.T
    return np.ascontiguousarray(weights).astype("<f4").tobytes()


def _stored_places(data: bytes, tensor: Dict[str, Any], streams: Dict[str, Any]) -> Any:
    """int64 (stored,) positions of the weights that are stored, ascending; None when all are."""
    total, stored = tensor["rows"] * tensor["columns"], tensor["stored"]
    if "mask" in streams:
        mask = np.unpackbits(np.frombuffer(_stream_bytes(data, streams["mask"]), np.uint8))
        where = np.flatnonzero(mask[:total])
        if mask[total:].any():
            raise BadPacked("the mask is longer than its tensor")
    elif "runs" in streams:
        runs = np.frombuffer(_stream_bytes(data, streams["runs"]), np.uint8).astype(np.int64)
        steps = runs + (runs < 255)  # 255 skips and stores nothing
        where = np.cumsum(steps)[runs < 255] - 1
    else:
        return None
    if len(where) != stored or (stored and int(where[-1]) >= total):
        raise BadPacked("the mask does not leave the weights that are stored")
    return where


def _indices(data: bytes, stream: Dict[str, Any]) -> Any:
    """uint8 (count,) of a stream of indices."""
    count, bits = stream["count"], stream["bits"]
    raw = np.frombuffer(_stream_bytes(data, stream), np.uint8)
    if stream["coding"] == SYMBOLS:
        if raw.size and int(raw.max()) >= 1 << bits:
            raise BadPacked("an index has more bits than it should")
        return raw
    index = np.empty(count, np.uint8)
    step = 1 << 16  # a multiple of eight indices, so that each piece begins with a byte
    for start in range(0, count, step):
        end = min(count, start + step)
        piece = np.unpackbits(raw[start * bits // 8 : -(-end * bits // 8)])[: (end - start) * bits]
        powers = 1 << np.arange(bits - 1, -1, -1)
        index[start:end] = piece.reshape(-1, bits).dot(powers)
    return index
