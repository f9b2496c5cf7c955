"""Forms: what httpx and browsers send is read to the byte, what keeps to nothing is refused in words."""

from __future__ import annotations

from contextlib import suppress

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.errors import DataError
from edgewise.serve.multipart import is_multipart, read_picture


def sent_by_httpx(**form: object) -> tuple[str, bytes]:
    request = httpx.Request("POST", "http://x/", **form)  # type: ignore[arg-type]
    return request.headers["content-type"], request.read()


@given(
    data=st.binary(max_size=400), name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)
)
def test_what_httpx_sends_is_read_to_the_byte(data: bytes, name: str) -> None:
    found, content = read_picture(*sent_by_httpx(files={"image": (name, data)}, data={"other": "field"}))
    assert content == data
    assert found == name.replace("\\", "\\\\").replace('"', "%22") or found == name


@given(body=st.binary(max_size=300), boundary=st.text(alphabet="ab-", min_size=1, max_size=4))
def test_any_bytes_are_read_or_refused(body: bytes, boundary: str) -> None:
    for whole in (body, body.replace(b"\n", b"\r\n--" + boundary.encode() + b"\r\n")):
        with suppress(DataError):  # nothing else may be raised
            _, data = read_picture(f"multipart/form-data; boundary={boundary}", whole)
            assert data in whole


def form(*parts: bytes, end: bytes = b"--") -> bytes:
    return b"".join(b"--B\r\n" + part + b"\r\n" for part in parts) + b"--B" + end + b"\r\n"


FILE = b'Content-Disposition: form-data; name="f"; filename="a.png"\r\nContent-Type: image/png\r\n\r\nDATA'
FIELD = b'Content-Disposition: form-data; name="f"\r\n\r\nDATA'
KIND = 'multipart/form-data; boundary="B"'


@pytest.mark.parametrize(
    "kind", [KIND, "Multipart/Form-Data;boundary=B", "multipart/form-data; charset=x; boundary=B;a=b"]
)
def test_the_boundary_is_found(kind: str) -> None:
    assert is_multipart(kind)
    assert read_picture(kind, form(FILE)) == ("a.png", b"DATA")


def test_a_field_called_image_is_the_picture_as_well() -> None:
    assert read_picture(KIND, form(FIELD.replace(b'"f"', b'"image"'))) == ("", b"DATA")
    assert read_picture(KIND, b"preamble\r\n" + form(FIELD, FILE)) == ("a.png", b"DATA")


@pytest.mark.parametrize(
    ("kind", "body", "why"),
    [
        ("multipart/form-data", form(FILE), "names no boundary"),
        ("multipart/form-data; boundary=" + "x" * 200, form(FILE), "names no boundary"),
        (KIND, b"", "cut short"),
        (KIND, form(FILE, end=b""), "cut short"),
        (KIND, form(FILE)[:40], "cut short"),
        (KIND, form(FIELD), "0 files"),
        (KIND, form(FILE, FILE), "2 files"),
        (KIND, form(*[FIELD] * 17), "more than 16 parts"),
        (KIND, form(*[FIELD] * 5000), "more than 16 parts"),
        (KIND, form(b"no head"), "no end of its head"),
        (KIND, form(b"X: y\r\n\r\nDATA"), "no Content-Disposition"),
        (KIND, form(b"A: " + b"x" * 9000 + b"\r\n\r\nDATA"), "no end of its head"),
        (KIND, form(FILE).replace(b"--B\r\n", b"--B trailing\r\n", 1), "text stands behind"),
    ],
)
def test_bad_forms_are_refused_in_words(kind: str, body: bytes, why: str) -> None:
    with pytest.raises(DataError) as caught:
        read_picture(kind, body)
    assert caught.value.code == "V12"
    assert why in caught.value.why


def test_other_types_are_no_forms() -> None:
    assert not is_multipart("image/png")
    assert not is_multipart("")
    assert not is_multipart("multipart/mixed; boundary=B")
