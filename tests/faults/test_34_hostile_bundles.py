"""A hostile archive of a bundle writes nothing outside its temporary folder and is refused with a reason."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewise import archive
from edgewise.archive import pack, unpack, unpacked
from edgewise.bundle import verify_bundle
from edgewise.errors import ConfigError, UntrustedError
from tests.device.tiny import make_bundle

Entries = list[tuple[zipfile.ZipInfo, bytes]]
"""What an archive is made of."""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "made")


@pytest.fixture
def packed(bundle: Path, tmp_path: Path) -> Path:
    pack(bundle, tmp_path / "b.zip")
    return tmp_path / "b.zip"


def read(path: Path) -> Entries:
    with zipfile.ZipFile(path) as source:
        return [(entry, source.read(entry)) for entry in source.infolist()]


def write(path: Path, entries: Entries) -> None:
    with zipfile.ZipFile(path, "w") as target:
        for entry, content in entries:
            target.writestr(entry, content)


def entry(name: str, *, mode: int = stat.S_IFREG | 0o644, how: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo("x", archive.EPOCH)
    made.filename = made.orig_filename = name
    made.create_system, made.external_attr, made.compress_type = 3, mode << 16, how
    return made


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


# --- What it is for ---------------------------------------------------------------------------------------------


def test_a_bundle_comes_back_as_it_was_and_the_file_is_always_the_same(
    bundle: Path, packed: Path, tmp_path: Path
) -> None:
    os.utime(bundle / "model.onnx", (1, 1))
    (bundle / "labels.txt").chmod(0o600)
    pack(bundle, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()
    unpack(packed, tmp_path / "out/again")
    verify_bundle(tmp_path / "out/again")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out/again").iterdir()} == {
        path.name: path.read_bytes() for path in bundle.iterdir()
    }
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["again"]


def test_the_commands(bundle: Path, tmp_path: Path) -> None:
    def edgewise(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgewise", *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert edgewise("pack", bundle, "--json").returncode == 0
    done = edgewise("verify", "bundle.zip", "--json")
    (facts,) = json.loads(done.stdout)
    assert (done.returncode, facts["bundle"], facts["classes"]) == (0, "bundle.zip", 3)
    done = edgewise("unpack", "bundle.zip")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "next: edgewise verify bundle")
    for again in (("unpack", "bundle.zip"), ("pack", bundle)):
        done = edgewise(*again)
        assert (done.returncode, "error[C99]" in done.stderr) == (2, True)
    (tmp_path / "bundle.zip").write_bytes((tmp_path / "bundle.zip").read_bytes()[:-9])
    done = edgewise("verify", "bundle.zip")
    assert (done.returncode, "error[U69]" in done.stderr, "Traceback" in done.stderr) == (6, True, False)


def test_a_changed_bundle_is_not_packed(bundle: Path, tmp_path: Path) -> None:
    (bundle / "labels.txt").write_text("cat\n")
    with pytest.raises(UntrustedError, match=r"labels\.txt: changed"):
        pack(bundle, tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists()


def test_a_dangling_link_is_not_replaced(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link.zip").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="there is something already"):
        pack(bundle, tmp_path / "link.zip")
    assert not (tmp_path / "nowhere").exists()


# --- Names and kinds --------------------------------------------------------------------------------------------

NAMES = [
    "../evil",
    "../../../../tmp/evil",
    "/tmp/evil",
    "a/../../evil",
    "folder/evil",
    "folder/",
    "..\\evil",
    "C:\\evil",
    "C:evil",
    "..",
    ".",
    "evil\n",
    "evil\x1b[2J",
    "evil\u202egpj.exe",
    "evil ",
    "evil.",
    "e" * 250,
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_could_lead_elsewhere(name: str, packed: Path, tmp_path: Path) -> None:
    write(packed, [*read(packed), (entry(name), b"evil")])
    before = everything(tmp_path)
    with pytest.raises(UntrustedError) as caught:
        unpack(packed, tmp_path / "out")
    assert caught.value.code == "U67"
    assert caught.value.exit_code == 6
    assert repr(name) in caught.value.why
    assert everything(tmp_path) == before
    assert not Path("/tmp/evil").exists()


def test_a_name_that_ends_at_a_nul_byte(packed: Path, tmp_path: Path) -> None:
    """zipfile shows such a name up to the NUL; the file says more."""
    write(packed, [*read(packed), (entry("evil"), b"evil")])
    packed.write_bytes(packed.read_bytes().replace(b"evil", b"e\0il"))
    with pytest.raises(UntrustedError, match=r"error\[U6[79]\]"):
        unpack(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["S_IFLNK", "S_IFBLK", "S_IFCHR", "S_IFIFO", "S_IFSOCK", "S_IFDIR"])
def test_links_devices_and_folders(kind: str, packed: Path, tmp_path: Path) -> None:
    write(packed, [*read(packed), (entry("evil", mode=getattr(stat, kind) | 0o777), b"/etc/passwd")])
    with pytest.raises(UntrustedError, match="not a regular file but a link, a folder or a device") as caught:
        unpack(packed, tmp_path / "out")
    assert caught.value.code == "U67"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("other", ["model.onnx", "MODEL.ONNX", "Model.onnx"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_or_in_another_case(other: str, packed: Path, tmp_path: Path) -> None:
    write(packed, [*read(packed), (entry(other), b"another model")])
    with pytest.raises(UntrustedError, match="there twice, as the same name or in another case"):
        unpack(packed, tmp_path / "out")


def test_one_letter_written_in_two_ways(packed: Path, tmp_path: Path) -> None:
    write(packed, [*read(packed), (entry("\u00e9"), b"1"), (entry("e\u0301"), b"2")])
    with pytest.raises(UntrustedError, match="there twice"):
        unpack(packed, tmp_path / "out")


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_of_packing(how: int, packed: Path, tmp_path: Path) -> None:
    write(packed, [*read(packed), (entry("evil", how=how), b"evil")])
    with pytest.raises(UntrustedError, match="packed in another way than deflate"):
        unpack(packed, tmp_path / "out")


def test_an_encrypted_file(packed: Path, tmp_path: Path) -> None:
    content = bytearray(packed.read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + place] |= 1
    packed.write_bytes(bytes(content))
    with pytest.raises(UntrustedError, match="encrypted"):
        unpack(packed, tmp_path / "out")


# --- Bombs ------------------------------------------------------------------------------------------------------


def too_many(entries: Entries) -> Entries:
    return [*entries, *((entry(f"file{number}"), b"") for number in range(archive.MAX_FILES))]


def swollen(entries: Entries) -> Entries:
    return [*entries, (entry("zeros"), bytes(50 << 20))]


@pytest.mark.parametrize("bomb", [too_many, swollen])
def test_bombs_are_refused_from_their_directory(
    bomb: Callable[[Entries], Entries], packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(packed, bomb(read(packed)))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("something was unpacked"))
    with pytest.raises(UntrustedError) as caught:
        unpack(packed, tmp_path / "out")
    assert caught.value.code == "U68"


def test_all_files_together(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    with pytest.raises(UntrustedError, match=r"error\[U68\]"):
        unpack(packed, tmp_path / "out")


def test_a_directory_that_is_itself_the_bomb(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is read as a whole by zipfile, so its size is checked before."""
    content = bytearray(packed.read_bytes())
    content[-10:-6] = (1 << 30).to_bytes(4, "little")
    packed.write_bytes(bytes(content))
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("the directory was read"))
    with pytest.raises(UntrustedError, match=r"error\[U68\]"):
        unpack(packed, tmp_path / "out")


def test_a_file_that_is_larger_than_it_says(packed: Path, tmp_path: Path) -> None:
    """The size in the directory is a lie: not a byte more than it is written, and the sum does not fit."""
    content = packed.read_bytes()
    at = content.index(b"PK\1\2", content.index(b"PK\1\2") + 1)  # the second file of the directory
    size = int.from_bytes(content[at + 24 : at + 28], "little")
    packed.write_bytes(content[: at + 24] + (size - 3).to_bytes(4, "little") + content[at + 28 :])
    with pytest.raises(UntrustedError, match=r"error\[U69\][\s\S]*CRC"):
        unpack(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_in_an_archive_is_never_opened(packed: Path, tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("zeros", bytes(1 << 20))
    write(packed, [*read(packed), (entry("inner.zip"), inner.getvalue())])
    with pytest.raises(UntrustedError, match=r"inner\.zip: not in the manifest"):
        unpack(packed, tmp_path / "out")


# --- Tampering and rubbish --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "told"), [("model.onnx", "model.onnx: changed"), ("manifest.json", "U0")])
def test_what_was_tampered_with_is_named(name: str, told: str, packed: Path, tmp_path: Path) -> None:
    entries = [(one, content[:-2] + b"!!" if one.filename == name else content) for one, content in read(packed)]
    write(packed, entries)
    before = everything(tmp_path)
    with pytest.raises(UntrustedError) as caught, unpacked(packed):
        pytest.fail("it was opened")
    assert told in str(caught.value)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt"])
def test_what_is_missing_is_named(name: str, packed: Path, tmp_path: Path) -> None:
    write(packed, [(one, content) for one, content in read(packed) if one.filename != name])
    with pytest.raises(UntrustedError, match=f"{name}: missing"):
        unpack(packed, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"PK", b"<html>" * 50, b"PK\5\6" + bytes(18), b"\x1f\x8b" + bytes(99)])
def test_what_is_no_archive(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    path.write_bytes(content)
    with pytest.raises(UntrustedError, match=r"error\[U(69|02)\]"):
        unpack(path, tmp_path / "out")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b.zip"]


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "link", "trailing"])
def test_what_is_no_plain_file(kind: str, packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.zip"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(packed)
    elif kind == "trailing":
        path.write_bytes(packed.read_bytes() + b"\0")
    with pytest.raises(UntrustedError, match=r"error\[U69\]"):
        unpack(path, tmp_path / "out")


def told(packed: Path, parent: Path) -> str:
    """The code with which an archive is refused, "" when what comes out is the bundle as it was written."""
    try:
        with unpacked(packed, parent) as (folder, _):
            verify_bundle(folder)
    except UntrustedError as problem:
        return problem.code
    return ""


def test_no_byte_of_an_archive_can_change_unnoticed(packed: Path, tmp_path: Path) -> None:
    content = packed.read_bytes()
    codes = set()
    for at in [*range(0, len(content), 211), *range(len(content) - 400, len(content), 5)]:
        packed.write_bytes(content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :])
        codes.add(told(packed, tmp_path))
    assert codes <= {"", "U02", "U03", "U67", "U68", "U69"}
    assert "U69" in codes
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b.zip", "made"]
