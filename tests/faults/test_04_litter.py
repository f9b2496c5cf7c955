"""Case 4: what desktops, archives and notebooks leave behind is ignored and counted."""

from __future__ import annotations

from pathlib import Path

from tests.data.loading import all_names, load, paint, picture


def test_litter_changes_nothing_but_a_count(tmp_path: Path) -> None:
    clean = load(paint(tmp_path / "d", cat=8, dog=8))
    root = tmp_path / "d"
    for folder in (".ipynb_checkpoints", "__MACOSX", "@eaDir", "cat/.ipynb_checkpoints", "dog/@eaDir"):
        (root / folder).mkdir()
        picture(folder).save(root / folder / "000-checkpoint.png")
    for name in (".DS_Store", "Thumbs.db", "cat/.DS_Store", "cat/desktop.ini", "dog/thumbs.DB", "dog/._000.png"):
        (root / name).write_bytes(b"\0\0\0\1Bud1")
    data = load(root)
    assert data.classes == ("cat", "dog")
    assert all_names(data) == all_names(clean)
    assert data.summary == {**clean.summary, "ignored": 11}


def test_litter_beside_split_folders(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        paint(tmp_path / part, cat=4, dog=4)
        (tmp_path / part / ".ipynb_checkpoints").mkdir()
        picture(part).save(tmp_path / part / ".ipynb_checkpoints" / "x.png")
    (tmp_path / "__MACOSX").mkdir()
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.summary["layout"] == "splits"
    assert (data.summary["images"], data.summary["ignored"]) == (24, 4)
