"""Reading protobuf, which is what ONNX files are: nested messages of numbered fields.

Nothing is imported and lengths are checked before they are believed: what does not add up is an IndexError, a TypeError
or a UnicodeDecodeError. The syntax is that of Python 3.6, because this file is copied into every bundle's
``runner.py``.
"""

from typing import Any, Dict, Iterator, List, Tuple

MAX_FIELDS = 1 << 20  # of one message

Fields = Dict[int, List[Any]]
"""Field number -> its values: int for numbers, memoryview for strings, messages and packed lists."""


def read_message(value: Any) -> Fields:
    """The fields of a message that is the value of a field."""
    if isinstance(value, int):
        raise TypeError("a number where a message belongs")
    return read_fields(value)


def read_fields(data: Any) -> Fields:
    """The fields of a message, of its bytes as a memoryview."""
    found = {}  # type: Fields
    at = count = 0
    while at < len(data):
        count += 1
        if count > MAX_FIELDS:
            raise IndexError("more than {} fields in a message".format(MAX_FIELDS))
        key, at = data[at], at + 1
        if key > 127:  # else it is all in this byte, as nearly every key and most lengths are
            key, at = _varint(data, at - 1)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
        else:
            if kind == 2:
                length, at = data[at], at + 1
                if length > 127:
                    length, at = _varint(data, at - 1)
            elif kind in (1, 5):
                length = 8 if kind == 1 else 4
            else:
                raise IndexError("unknown wire type {}".format(kind))
            if length > len(data) - at:
                raise IndexError("a field is longer than the file")
            value, at = data[at : at + length], at + length
        found.setdefault(key >> 3, []).append(value)
    return found


def _varint(data: Any, at: int) -> Tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise IndexError("a number of more than 64 bits")


def signed(value: Any) -> int:
    """A number of 64 bits with its sign."""
    if not isinstance(value, int):
        raise TypeError("a message where a number belongs")
    return value - (1 << 64) if value >= 1 << 63 else value


def read_number(fields: Fields, field: int) -> int:
    """A number; 0 where it is not said. Of several the last counts, in protobuf."""
    return signed(fields[field][-1]) if field in fields else 0


def read_numbers(fields: Fields, field: int) -> List[int]:
    """All numbers of a repeated field, packed or not."""
    return list(_each_number(fields.get(field, [])))


def _each_number(values: List[Any]) -> Iterator[int]:
    for value in values:
        if isinstance(value, int):
            yield signed(value)
        else:
            at = 0
            while at < len(value):
                number, at = _varint(value, at)
                yield signed(number)


def read_text(fields: Fields, field: int) -> str:
    """A text; "" where it is not said."""
    return bytes(fields[field][-1]).decode("utf-8") if field in fields else ""
