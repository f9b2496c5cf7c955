"""ncnn, LiteRT and ExecuTorch files: written by the real converters, run by the real runtimes, on real images."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.bundle import InputSpec
from edgewise.data import Dataset, load_data
from edgewise.device import RUNTIMES
from edgewise.device.seal import open_sealed, seal
from edgewise.errors import ExportError, UnavailableError, UntrustedError
from edgewise.export import FORMATS, ExportSpec, toolchain
from edgewise.export.ncnn_int8 import threshold
from edgewise.export.program import trace
from edgewise.models import Model, create_model
from edgewise.recipe import DataOptions, TrainOptions
from edgewise.train import Setup, fit, logits
from tests.export.tested import TESTED

SIDE = 16
SPEC = InputSpec(SIDE, SIDE, 1, mean=(0.4,), std=(0.3,))
CASES = [
    ("ncnn", "fp32"),
    ("ncnn", "fp16"),
    ("ncnn", "int8"),
    pytest.param("litert", "fp32", marks=pytest.mark.slow),
    pytest.param("litert", "int8", marks=pytest.mark.slow),
]
EACH = [CASES[0], CASES[3]]
MODULES = {"ncnn": "ncnn", "litert": "ai_edge_litert.interpreter"}
if "executorch" in TESTED:
    CASES += [pytest.param("executorch", precision, marks=pytest.mark.slow) for precision in ("fp32", "int8")]
    EACH.append(CASES[5])
    MODULES["executorch"] = "executorch.extension.pybindings.portable_lib"
Written = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data(DataOptions(source="digits"), SPEC, seed=0)


@pytest.fixture(scope="module")
def trained(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Model:
    model = create_model("convnet(8, 16)", labels=digits.classes, input=SPEC, seed=0)
    options = TrainOptions(epochs=8, batch_size=32, lr=0.01, threads=1)
    return fit(model, digits, Setup(options, 0, tmp_path_factory.mktemp("digits"))).model


@pytest.fixture(scope="module")
def written(
    digits: Dataset, trained: Model, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Written:
    """Writes each file once."""
    folder = tmp_path_factory.mktemp("written")

    @functools.cache
    def write(format_: str, precision: str) -> Path:
        if format_ == "litert":
            request.getfixturevalue("converting")
        exporter = FORMATS[format_]
        path = folder / format_ / f"{precision}{exporter.suffix}"
        scheme = exporter.schemes[0] if precision == "int8" else ""
        exporter.write(
            trained, ExportSpec(precision, folder / format_ / "work", scheme, digits.train.images[:64]), path
        )
        return path

    return write


def test_every_precision_of_every_format_is_a_case() -> None:
    cases = {tuple(getattr(case, "values", case)) for case in CASES}
    assert cases == {(name, precision) for name in MODULES for precision in FORMATS[name].precisions}


@pytest.mark.parametrize(("format_", "precision"), CASES)
def test_it_answers_like_its_model(
    written: Written, trained: Model, digits: Dataset, format_: str, precision: str
) -> None:
    images = digits.test.images
    before = images.copy()
    expected = logits(trained, images)
    path = written(format_, precision)
    session = RUNTIMES[format_].load(path)
    scores = session.scores(images)
    assert np.array_equal(images, before)
    assert (scores.dtype, scores.shape) == (np.float32, (len(images), 10))
    delta, agreement = np.abs(scores - expected).max(), (scores.argmax(1) == expected.argmax(1)).mean()
    limit, least = {"fp32": (1e-3, 1.0), "fp16": (0.05, 0.99), "int8": (1.5, 0.95)}[precision]
    assert delta < limit
    assert agreement >= least
    if precision != "fp32":
        assert delta > 1e-6  # it is not the fp32 file under another name
    again = RUNTIMES[format_].load(path)
    assert np.array_equal(again.scores(images[:5]), scores[:5])
    alone = np.concatenate([session.scores(images[i : i + 1]) for i in range(5)])
    assert np.array_equal(alone, scores[:5])
    assert session.scores(images[:0]).shape == (0, 10)
    assert np.array_equal(session.scores(images[:10][::2]), scores[:10:2])  # a view that is not contiguous


@pytest.mark.parametrize(("format_", "precision"), EACH)
def test_it_refuses_pixels_of_another_shape_and_describes_itself(
    written: Written, format_: str, precision: str
) -> None:
    session = RUNTIMES[format_].load(written(format_, precision), threads=2)
    for shape, kind in (((1, SIDE, SIDE + 1, 1), np.uint8), ((1, SIDE, SIDE, 1), np.float32), ((SIDE, SIDE), np.uint8)):
        with pytest.raises(ValueError, match="wanted"):
            session.scores(np.zeros(shape, kind))  # type: ignore[arg-type]
    facts = session.describe()
    assert facts["runtime"] == format_
    assert facts["threads"] == "2"
    assert facts["version"] == RUNTIMES[format_].version()
    if format_ == "ncnn":
        assert facts["use_fp16_storage"] == facts["use_bf16_storage"] == facts["use_fp16_arithmetic"] == "off"


@pytest.mark.parametrize(("format_", "precision"), CASES)
def test_it_opens_without_edgewise(
    written: Written, digits: Dataset, tmp_path: Path, format_: str, precision: str
) -> None:
    """The lines that stand in a bundle's README give the same logits."""
    path = written(format_, precision)
    for ending in (FORMATS[format_].suffix, *FORMATS[format_].sidecars):
        shutil.copy(path.with_suffix(ending), tmp_path / f"model{ending}")
    image = digits.test.images[:1].copy()
    lines = "import numpy as np\nimage = np.load('image.npy')\n" + RUNTIMES[format_].example
    np.save(tmp_path / "image.npy", image)
    code = lines + "\nnp.save('logits.npy', logits)\nimport sys; assert 'edgewise' not in sys.modules"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scores = RUNTIMES[format_].load(path).scores(image)
    limit = 0.05 if precision == "fp16" else 1e-5  # the lines compute in 32 bits, which fits every precision
    assert np.allclose(np.load(tmp_path / "logits.npy"), scores, atol=limit)


@pytest.mark.slow
@pytest.mark.parametrize("format_", MODULES)
def test_smaller_precisions_are_smaller_and_writing_again_gives_the_same(
    written: Written, trained: Model, digits: Dataset, tmp_path: Path, format_: str
) -> None:
    def size(path: Path) -> int:
        return sum(path.with_suffix(e).stat().st_size for e in (FORMATS[format_].suffix, *FORMATS[format_].sidecars))

    sizes = [size(written(format_, precision)) for precision in FORMATS[format_].precisions]
    assert sizes == sorted(set(sizes), reverse=True)
    again = tmp_path / f"again{FORMATS[format_].suffix}"
    FORMATS[format_].write(trained, ExportSpec("fp32", tmp_path / "work"), again)
    images = digits.test.images[:20]
    first = RUNTIMES[format_].load(written(format_, "fp32")).scores(images)
    assert np.array_equal(RUNTIMES[format_].load(again).scores(images), first)


def flip(data: bytes) -> bytes:
    return data[: len(data) // 3] + bytes([data[len(data) // 3] ^ 64]) + data[len(data) // 3 + 1 :]


@pytest.mark.parametrize(
    "damage", [flip, lambda d: d[: len(d) // 2], lambda d: d[:-30], lambda d: b"", lambda d: d + b"x"]
)
@pytest.mark.parametrize(("format_", "precision"), EACH)
def test_damage_is_told_before_the_runtime_sees_it(
    written: Written, tmp_path: Path, format_: str, precision: str, damage: Callable[[bytes], bytes]
) -> None:
    path = written(format_, precision)
    endings = (FORMATS[format_].suffix, *FORMATS[format_].sidecars)
    for hurt in endings:
        for ending in endings:
            data = path.with_suffix(ending).read_bytes()
            (tmp_path / f"m{ending}").write_bytes(damage(data) if ending == hurt else data)
        with pytest.raises(UntrustedError, match=f"not a whole {format_} model file") as caught:
            RUNTIMES[format_].load(tmp_path / f"m{endings[0]}")
        assert caught.value.code == "U04"
    with pytest.raises(UntrustedError, match="not a whole"):
        RUNTIMES[format_].load(tmp_path / f"absent{endings[0]}")


@pytest.mark.parametrize(("format_", "precision"), EACH)
def test_rubbish_under_a_right_seal_is_refused_too(
    written: Written, tmp_path: Path, format_: str, precision: str
) -> None:
    sealed = open_sealed(written(format_, precision), format_, FORMATS[format_].sidecars)
    facts = {key: value for key, value in sealed.facts.items() if key not in ("sha256", "sidecars")}
    path = tmp_path / f"m{FORMATS[format_].suffix}"
    for ending, data in sealed.sidecars.items():
        path.with_suffix(ending).write_bytes(data)
    for content in (b"rubbish", b"7767517\n1 1\nInput in0 0 2 in0\n", sealed.content[: len(sealed.content) // 2]):
        path.write_bytes(seal(content, sealed.sidecars, facts))
        with pytest.raises(UntrustedError, match="refuses") as caught:
            RUNTIMES[format_].load(path)
        assert caught.value.code == "U04"
    with pytest.raises(UntrustedError, match="not a whole onnx"):
        open_sealed(path, "onnx")


def test_ncnn_weights_of_another_model_are_refused(written: Written, tmp_path: Path) -> None:
    shutil.copy(written("ncnn", "fp32"), tmp_path / "m.param")
    shutil.copy(written("ncnn", "fp16").with_suffix(".bin"), tmp_path / "m.bin")
    with pytest.raises(UntrustedError) as caught:
        RUNTIMES["ncnn"].load(tmp_path / "m.param")
    assert "m.bin was changed, or belongs to another model" in caught.value.why


@pytest.mark.parametrize(("format_", "precision"), EACH)
def test_a_missing_runtime_is_told_with_its_install_line(
    written: Written, monkeypatch: pytest.MonkeyPatch, format_: str, precision: str
) -> None:
    path = written(format_, precision)
    monkeypatch.setitem(sys.modules, MODULES[format_], None)
    with pytest.raises(UnavailableError, match="cannot be imported") as caught:
        RUNTIMES[format_].load(path)
    assert (caught.value.code, caught.value.fix) == ("E85", f'pip install "edgewise[{format_}]"')


def test_looking_for_versions_imports_no_runtime() -> None:
    code = """
import sys
from edgewise.device import RUNTIMES
from edgewise.export import FORMATS
assert all(RUNTIMES[name].version() for name in ("ncnn", "litert"))
assert FORMATS["ncnn"].missing() == ""
RUNTIMES["executorch"].version(), FORMATS["executorch"].missing()
assert FORMATS["litert"].missing() == "edgewise toolchain install litert"
heavy = {"ncnn", "pnnx", "ai_edge_litert", "executorch", "torch", "onnxruntime"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_missing_converter_is_told_with_its_install_line(
    trained: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        for format_, extra in (("ncnn", "to-ncnn"), ("executorch", "host,executorch")):
            with pytest.raises(UnavailableError, match="is not installed; it writes") as caught:
                FORMATS[format_].write(trained, ExportSpec("fp32", tmp_path), tmp_path / "m")
            assert (caught.value.code, caught.value.fix) == ("E86", f'pip install "edgewise[{extra}]"')
            assert FORMATS[format_].missing() == caught.value.fix
    monkeypatch.setattr(toolchain, "root", lambda: tmp_path / "toolchains")
    with pytest.raises(UnavailableError, match="litert toolchain is not installed") as caught:
        FORMATS["litert"].write(trained, ExportSpec("fp32", tmp_path), tmp_path / "m")
    assert (caught.value.code, caught.value.fix) == ("E89", FORMATS["litert"].missing())


@pytest.mark.parametrize("format_", MODULES)
def test_int8_needs_calibration_images(trained: Model, tmp_path: Path, format_: str) -> None:
    with pytest.raises(ExportError, match="calibration images") as caught:
        FORMATS[format_].write(trained, ExportSpec("int8", tmp_path), tmp_path / "m")
    assert caught.value.code == "X02"


def odd_model(forward: Callable[[Any, Any], Any], *layers: Any) -> Model:
    import torch

    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(SIDE * SIDE, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return forward(self, x)

    return Model(Odd(), "odd", SPEC, ("a", "b"))


def test_what_ncnn_cannot_do_is_named(tmp_path: Path) -> None:
    import torch

    odd = odd_model(lambda self, x: self.layers(torch.special.i0(x)))
    with pytest.raises(ExportError, match="ncnn has no layer for part of this model") as caught:
        FORMATS["ncnn"].write(odd, ExportSpec("fp32", tmp_path), tmp_path / "m.param")
    assert caught.value.code == "X23"
    assert "i0" in caught.value.where["layers"]
    assert not (tmp_path / "m.param").exists()


def test_ncnn_int8_refuses_weights_that_it_does_not_know(tmp_path: Path, digits: Dataset) -> None:
    import torch

    odd = odd_model(lambda self, x: self.layers(x), torch.nn.GroupNorm(1, 1))
    spec = ExportSpec("int8", tmp_path, "s8", digits.train.images[:4])
    with pytest.raises(ExportError, match="int8 cannot be written for this model in ncnn") as caught:
        FORMATS["ncnn"].write(odd, spec, tmp_path / "m.param")
    assert caught.value.code == "X24"
    FORMATS["ncnn"].write(odd, ExportSpec("fp32", tmp_path), tmp_path / "m.param")
    RUNTIMES["ncnn"].load(tmp_path / "m.param")


def test_a_model_that_cannot_be_traced_is_told(tmp_path: Path) -> None:
    odd = odd_model(lambda self, x: self.layers(x if x.sum() > 0 else -x))
    with pytest.raises(ExportError, match="cannot be traced") as caught:
        trace(odd, tmp_path / "net.pt2")
    assert caught.value.code == "X22"


def test_the_threshold_clips_outliers_and_nothing_else() -> None:
    even = threshold(np.ones(2048), 6.0)
    assert 5.5 < even <= 6.0
    lonely = np.zeros(2048)
    lonely[:200], lonely[-1] = 1e6, 1
    assert threshold(lonely, 6.0) == pytest.approx(1.2)
