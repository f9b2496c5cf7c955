"""What every format promises, for each (format, precision, scheme) that the registries name."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from edgewise.data import Dataset
from edgewise.device import RUNTIMES
from edgewise.errors import UntrustedError
from edgewise.export import FORMATS, ExportSpec
from edgewise.export.base import sidecars_of
from edgewise.export.verify import parity
from edgewise.models import Model, create_model
from edgewise.recipe import Format
from edgewise.train import logits
from tests.export.tested import TESTED
from tests.train.conftest import CLASSES, SPEC

pytestmark = pytest.mark.usefixtures("converting")

KINDS = [
    (format_, precision, scheme)
    for format_ in TESTED
    for precision in FORMATS[format_].precisions
    for scheme in (FORMATS[format_].schemes if precision == "int8" else ("",))
]


@pytest.fixture(scope="session")
def written(trained: Model, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Path]:
    """Files by kind; filled as they are asked for."""
    made: dict[tuple[str, ...], Path] = {}
    folder = tmp_path_factory.mktemp("formats")

    class Files(dict[tuple[str, ...], Path]):
        def __missing__(self, kind: tuple[str, ...]) -> Path:
            format_, precision, scheme = kind
            exporter = FORMATS[format_]
            path = folder / format_ / f"{precision}{scheme}{exporter.suffix}"
            exporter.write(
                trained, ExportSpec(precision, folder / format_ / "work", scheme, dataset.train.images), path
            )
            self[kind] = path
            return path

    return Files(made)


def test_the_registries_and_the_recipe_know_the_same_formats() -> None:
    assert set(FORMATS) == set(RUNTIMES)
    assert set(FORMATS) <= set(get_args(Format))
    for format_, runtime in RUNTIMES.items():
        assert runtime.format == format_
        assert "logits" in runtime.example
        assert "install" in runtime.install
        assert FORMATS[format_].precisions[0] == "fp32"


@pytest.mark.parametrize("format_", TESTED)
def test_all_of_it_is_installed_here(format_: str) -> None:
    """Tests run with everything, so that nothing below is left out."""
    assert RUNTIMES[format_].version()
    assert FORMATS[format_].missing() == ""


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_a_written_file_is_its_model(
    kind: tuple[str, str, str], written: dict[tuple[str, ...], Path], trained: Model, dataset: Dataset
) -> None:
    path = written[kind]
    assert all(file.is_file() for file in (path, *sidecars_of(FORMATS[kind[0]], path)))
    session = RUNTIMES[kind[0]].load(path)
    images = dataset.test.images.copy()
    kept = images.copy()
    scores = session.scores(images)
    assert np.array_equal(images, kept), "the input was changed"
    assert (scores.shape, scores.dtype) == ((len(images), trained.num_classes), np.float32)
    checked = parity(logits(trained, images), scores, kind[1])
    assert checked.passed, checked
    if kind[1] == "int8":
        assert checked.top1_agreement >= 0.9
        assert checked.max_abs_logit_delta > 0, "not a bit was lost: this is not int8"
    for count in (1, 3, 1):
        assert np.allclose(session.scores(images[:count]), scores[:count], atol=1e-4 + 2e-2 * (kind[1] == "int8"))
    again = RUNTIMES[kind[0]].load(path, threads=2)
    assert np.array_equal(again.scores(images).argmax(1), scores.argmax(1))
    assert np.array_equal(session.scores(images), scores), "not deterministic"
    facts = session.describe()
    assert {"runtime", "version", "threads"} <= set(facts)


@pytest.mark.parametrize("format_", [name for name in TESTED if "fp16" in FORMATS[name].precisions])
def test_half_precision_halves_the_weights(format_: str, tmp_path: Path) -> None:
    """On a net whose weights outweigh the description of its graph."""
    model = create_model("convnet(32, 64)", labels=CLASSES, input=SPEC, seed=0)
    sizes = []
    for precision in ("fp32", "fp16"):
        path = tmp_path / f"{precision}{FORMATS[format_].suffix}"
        FORMATS[format_].write(model, ExportSpec(precision, tmp_path / "work"), path)
        sizes.append(sum(file.stat().st_size for file in (path, *sidecars_of(FORMATS[format_], path))))
    weights = sum(parameter.numel() for parameter in model.module.parameters())
    assert sizes[0] - sizes[1] > 1.5 * weights


@pytest.mark.parametrize("format_", TESTED)
def test_a_damaged_file_is_refused_and_nothing_else_is_raised(
    format_: str, written: dict[tuple[str, ...], Path], tmp_path: Path
) -> None:
    source = written[format_, "fp32", ""]
    path = tmp_path / source.name
    for file in (source, *sidecars_of(FORMATS[format_], source)):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(UntrustedError, match=r"U04|U53|U61"):
        RUNTIMES[format_].load(path)


def test_naming_formats_imports_no_runtime() -> None:
    """The heavy packages are imported when a file is written or opened, not before."""
    heavy = sorted(
        {runtime.module.partition(".")[0] for runtime in map(RUNTIMES.get, TESTED) if runtime}
        | {"nncf", "torch", "onnx"}
    )
    assert all(importlib.util.find_spec(name) for name in heavy)
    code = f"import sys, edgewise.device, edgewise.recipe; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
