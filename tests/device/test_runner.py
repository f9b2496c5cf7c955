"""The board-side runner: one file of Python 3.6, the same pixels, the promised exit codes."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tiny import LABELS, SIZE, make_bundle

from edgewise import bundle as bundles
from edgewise.bundle import InputSpec, verify_bundle
from edgewise.device import RUNTIMES, runner
from edgewise.device.preprocess import load_pixels, softmax
from edgewise.device.shipped.clocks import peak_rss
from edgewise.device.shipped.usage import ABOUT, OPTIONS
from edgewise.device.shipped.words import COMMANDS, read_words
from edgewise.device.standalone import runner_source


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    random = np.random.default_rng(3)
    Image.fromarray(random.integers((0, 90, 0), (90, 256, 120), (31, 45, 3), dtype=np.uint8)).save(tmp_path / "p.png")
    return tmp_path / "p.png"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)


def vermin(path: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("vermin"), "-t=3.6-", "--eval-annotations", "--violations", path]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def shipped(bundle: Path) -> ModuleType:
    """The runner inside a bundle, imported under a name of its own."""
    spec = importlib.util.spec_from_file_location("shipped_runner", bundle / "runner.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- The file itself --------------------------------------------------------------------------------------------


def test_it_is_python_36_and_needs_nothing_of_edgewise(tmp_path: Path) -> None:
    path = tmp_path / "runner.py"
    path.write_text(runner_source())
    told = vermin(path)
    assert told.returncode == 0, told.stdout
    ast.parse(path.read_text(), feature_version=(3, 6))
    assert "import edgewise" not in path.read_text()
    assert "from edgewise" not in path.read_text()


def test_the_parts_that_are_compiled_later_are_python_36_too(tmp_path: Path, bundle: Path) -> None:
    parts = shipped(bundle)._PARTS
    assert {"edgewise.device.packed", "edgewise.device.jpeg", "edgewise.device.shipped.camera"} < set(parts)
    for name, source in parts.items():
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        told = vermin(path)
        assert told.returncode == 0, told.stdout
        ast.parse(source, feature_version=(3, 6))
        assert not re.search(r"^\s*(from|import) edgewise", source, re.M)


STARTED = """
import builtins, gc, json, os, runpy, sys
words, parts, compiler = json.loads(sys.argv[1]), [], builtins.compile
def watched(source, name, *rest, **more):
    parts.extend([name.rpartition(".")[2]] if str(name).startswith("edgewise.") else [])
    return compiler(source, name, *rest, **more)
sys.argv, builtins.compile = words, watched
os.environ.pop("OPENBLAS_NUM_THREADS", None)
try:
    runpy.run_path(words[0], run_name=os.environ["RUN_NAME"])
except SystemExit as ended:
    assert not ended.code, ended.code
heavy = sorted({"PIL.Image", "_hashlib", "argparse", "cv2", "onnxruntime"} & set(sys.modules))
threads = os.environ.get("OPENBLAS_NUM_THREADS")
about = {"parts": parts, "heavy": heavy, "threads": threads, "gc": gc.isenabled(), "frozen": gc.get_freeze_count() > 0}
print(json.dumps(about), file=sys.stderr)
"""
"""Starts a file under a name and tells which of its parts were compiled, and what it left behind."""


def started(name: str, *words: object) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    command = [sys.executable, "-c", STARTED, json.dumps([str(word) for word in words])]
    done = subprocess.run(
        command, env={**os.environ, "RUN_NAME": name}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return lines(done.stdout), json.loads(done.stderr)


def test_a_cold_start_loads_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    """A small PNG takes neither Pillow nor OpenSSL nor argparse; a part is compiled when it is asked for."""
    size = 32
    bundle = make_bundle(tmp_path, size)
    for name, shape in (("fits.png", (size, size)), ("other.png", (40, 30)), ("p.jpg", (40, 30))):
        Image.new("RGB", shape, (0, 200, 0)).save(tmp_path / name)
    for name, parts, heavy in (
        ("fits.png", ["png"], []),
        ("other.png", ["png", "fitting", "resample"], []),
        ("p.jpg", ["pictures", "fitting"], ["PIL.Image"]),
    ):
        (line,), about = started("__main__", bundle / "runner.py", "classify", tmp_path / name)
        assert line["label"] == "green"
        assert (about["parts"], about["heavy"]) == (parts, [*heavy, "onnxruntime"]), name
        assert (about["threads"], about["gc"], about["frozen"]) == ("1", True, True)
    _, about = started("__main__", bundle / "runner.py", "verify")
    assert (about["parts"], about["heavy"]) == (["files"], [])


def test_what_imports_the_runner_keeps_its_own_settings(bundle: Path) -> None:
    _, about = started("imported", bundle / "runner.py")
    assert about == {"parts": [], "heavy": [], "threads": None, "gc": True, "frozen": False}


def test_what_readmes_import_from_the_runner_is_there(bundle: Path) -> None:
    told = [runtime.example for runtime in RUNTIMES.values()] + [inspect.getsource(bundles)]
    names = {
        name for text in told for found in re.findall(r"from runner import (.+)", text) for name in found.split(", ")
    }
    assert {"open_image", "prepare", "unpacked"} <= names
    assert all(callable(getattr(shipped(bundle), name)) for name in names)


def test_every_part_can_be_asked_for(bundle: Path) -> None:
    """Its names from other files are there: each part is compiled, and what it uses is defined."""
    module = shipped(bundle)
    for name in list(module._PARTS):
        module._later(name)
        space = module._PARTS[name]
        ours = importlib.import_module(name)
        used = {key for key, value in vars(ours).items() if getattr(value, "__module__", "").startswith("edgewise")}
        assert used <= set(space), name


def test_a_part_imports_what_another_part_holds(bundle: Path) -> None:
    module = shipped(bundle)
    assert module._later("edgewise.device.bmp", "from_palette") == module._later(
        "edgewise.device.colours", "from_palette"
    )


def test_small_png_files_need_no_pillow_and_give_the_same_pixels(tmp_path: Path, picture: Path) -> None:
    large, text, gif = (tmp_path / name for name in ("large.png", "text.png", "small.gif"))
    Image.new("RGB", (200, 100)).save(large)
    words = PngInfo()
    words.add_text("Comment", "an orientation may stand in such texts")
    Image.open(picture).save(text, pnginfo=words)
    Image.open(picture).save(gif)
    cut = tmp_path / "cut.png"
    cut.write_bytes(picture.read_bytes()[:-30])
    code = (
        "import sys, numpy as np\n"
        "from edgewise.device.preprocess import open_small, prepare\n"
        "found = open_small(sys.argv[1])\n"
        "assert 'PIL.Image' not in sys.modules\n"
        "np.save(sys.argv[2], prepare(found, 19, 23, 3, 'crop', 'bicubic'))\n"
        "assert 'PIL.Image' not in sys.modules\n"
        "assert all(open_small(path) is None for path in sys.argv[3:])\n"
        "import PIL.Image\n"
        "assert open_small(sys.argv[1]) is None\n"
    )
    done = run("-c", code, picture, tmp_path / "pixels.npy", large, text, gif, cut, tmp_path, tmp_path / "none.png")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "pixels.npy"), load_pixels(picture, 19, 23, 3, "crop", "bicubic"))


def test_vermin_would_find_newer_syntax(tmp_path: Path) -> None:
    for newer in ("if (n := 3):\n    pass\n", "def f(a: tuple[int, ...]) -> None:\n    pass\n"):
        (tmp_path / "new.py").write_text(runner_source() + "\n" + newer)
        assert vermin(tmp_path / "new.py").returncode != 0, newer


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_shipped_pixels_are_ours_bit_for_bit(bundle: Path, picture: Path, fit: str, channels: int) -> None:
    theirs = shipped(bundle).load_pixels(str(picture), 19, 23, channels, fit, "bicubic")
    np.testing.assert_array_equal(theirs, load_pixels(picture, 19, 23, channels, fit, "bicubic"))


def test_no_name_of_one_file_hides_that_of_another() -> None:
    names: dict[str, int] = {}
    for node in ast.parse(runner_source()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = names.get(node.name, 0) + 1
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                        names[name.id] = names.get(name.id, 0) + 1
    assert {"prepare", "check_model", "decode", "Refused", "_later"} <= set(names)
    assert [name for name, count in names.items() if count > 1] == []


def test_an_import_that_cannot_be_written_in_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "inspect.getsource", lambda module: "from edgewise.device.preprocess import (\n    prepare,\n)\n"
    )
    with pytest.raises(RuntimeError, match="in more than a line"):
        runner_source()


# --- classify ---------------------------------------------------------------------------------------------------


def test_classify_agrees_with_the_runtime_on_our_pixels(bundle: Path, picture: Path) -> None:
    done = run(bundle / "runner.py", "classify", picture, "--top", 2)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = lines(done.stdout)
    session = onnxruntime.InferenceSession(bundle / "model.onnx")
    expected = softmax(session.run(None, {"image": load_pixels(picture, SIZE, SIZE, 3)[None]})[0])[0]
    best = np.argsort(-expected)
    assert line["file"] == str(picture)
    assert line["label"] == LABELS[best[0]] == "green"
    assert line["confidence"] == pytest.approx(expected[best[0]], abs=1e-6)
    assert [one["label"] for one in line["top"]] == [LABELS[index] for index in best[:2]]
    assert line["ms"] > 0


def test_bad_pictures_are_named_and_the_others_still_answered(
    bundle: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.jpg"
    page.write_text("<html>")
    os.mkfifo(tmp_path / "pipe.jpg")
    files = [str(path) for path in (page, picture, tmp_path / "pipe.jpg")]
    assert runner.main(["classify", "--bundle", str(bundle), *files]) == 3
    bad, good, pipe = lines(capsys.readouterr().out)
    assert bad["file"] == files[0]
    assert "cannot identify" in bad["error"]
    assert good["label"] == "green"
    assert pipe == {"file": files[2], "error": "not a regular file"}


def test_strange_names_come_back_as_they_were(
    bundle: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = tmp_path / "-a b\n;$(x) \N{SNOWMAN} \udcff.png"
    strange.write_bytes(picture.read_bytes())
    assert runner.main(["classify", "--bundle", str(bundle), str(strange)]) == 0
    (line,) = lines(capsys.readouterr().out)
    assert line["file"] == str(strange)


def test_confidence_takes_the_temperature_and_below_the_threshold_the_label_is_null(
    tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = make_bundle(tmp_path / "plain")
    assert runner.main(["classify", "--bundle", str(plain), str(picture)]) == 0
    (before,) = lines(capsys.readouterr().out)
    session = onnxruntime.InferenceSession(plain / "model.onnx")
    logits = session.run(None, {"image": load_pixels(picture, SIZE, SIZE, 3)[None]})[0]
    for temperature, threshold, named in ((0.25, 0.5, True), (4.0, 0.5, False), (4.0, 0.0, True)):
        thresholds = {"temperature": temperature, "unknown": threshold}
        bundle = make_bundle(tmp_path / f"{temperature}-{threshold}", thresholds=thresholds)
        done = run(bundle / "runner.py", "classify", picture)
        assert (done.returncode, done.stderr) == (0, "")
        (line,) = lines(done.stdout)
        assert line["confidence"] == pytest.approx(softmax(logits / temperature).max(), abs=1e-6)
        assert line["label"] == ("green" if named else None)
        assert [one["label"] for one in line["top"]] == [one["label"] for one in before["top"]]
        assert line["top"][0]["confidence"] == line["confidence"]


def test_the_threshold_can_be_given_in_place_of_the_bundles(
    tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path, thresholds={"temperature": 1.0, "unknown": 0.999})
    found = {}
    for given in ([], ["--threshold", "0"], ["--threshold", "0.999"], ["--threshold", "1"]):
        assert runner.main(["classify", "--bundle", str(bundle), *given, str(picture)]) == 0
        found[" ".join(given)] = lines(capsys.readouterr().out)[0]["label"]
    assert found == {"": None, "--threshold 0": "green", "--threshold 0.999": None, "--threshold 1": None}
    with pytest.raises(SystemExit, match="2"):
        runner.main(["classify", "--threshold", "1.1", str(picture)])


def test_the_camera_says_unknown_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path, thresholds={"unknown": 1.0})
    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 32))
    for _ in range(2):
        writer.write(np.full((32, 32, 3), 90, np.uint8))
    writer.release()
    assert runner.main(["camera", str(film), "--bundle", str(bundle)]) == 0
    first, second, _ = lines(capsys.readouterr().out)
    assert first["label"] is second["label"] is None
    assert first["top"][0]["label"] in LABELS


@pytest.mark.parametrize(
    "thresholds",
    [{"temperature": 0}, {"temperature": "x"}, {"unknown": 2}, {"unknown": None}, {"unknown": float("nan")}, 7],
)
def test_thresholds_that_mean_nothing_are_refused(
    bundle: Path, picture: Path, thresholds: object, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(bundle, thresholds=thresholds)
    assert runner.main(["classify", "--bundle", str(bundle), str(picture)]) == 6
    assert capsys.readouterr().err.startswith("error[U02]: not an edgewise bundle")


def test_a_bundle_from_before_there_were_thresholds_names_every_picture(
    bundle: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    del raw["thresholds"]
    (bundle / "manifest.json").write_text(json.dumps(raw))
    assert runner.main(["classify", "--bundle", str(bundle), str(picture)]) == 0
    assert lines(capsys.readouterr().out)[0]["label"] == "green"


# --- Refusals ---------------------------------------------------------------------------------------------------


def test_verify_agrees_with_the_library(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify_bundle(bundle)
    assert run(bundle / "runner.py", "verify").returncode == 0
    assert runner.main(["verify", "--bundle", str(bundle)]) == 0
    assert lines(capsys.readouterr().out) == [{"bundle": "tiny", "files": 3, "unchanged": True}]


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt", "runner.py"])
@pytest.mark.parametrize("how", ["changed", "missing", "link"])
def test_verify_names_what_was_changed(bundle: Path, name: str, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = bundle / name
    content = path.read_bytes()
    path.unlink()
    if how == "changed":
        path.write_bytes(content[:-1] + b"!")
    elif how == "link":
        (bundle.parent / "elsewhere").write_bytes(content)
        path.symlink_to(bundle.parent / "elsewhere")
    assert runner.main(["verify", "--bundle", str(bundle)]) == 6
    told = capsys.readouterr().err
    assert told.startswith("error[U03]: the bundle is not as it was written")
    assert name in told


def test_verify_finds_added_files(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "numpy.py").write_text("raise SystemExit")
    assert runner.main(["verify", "--bundle", str(bundle)]) == 6
    assert "not in the manifest: numpy.py" in capsys.readouterr().err


def test_a_changed_model_is_not_run(bundle: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (bundle / "model.onnx").open("ab") as stream:
        stream.write(b"\0")
    assert runner.main(["classify", "--bundle", str(bundle), str(picture)]) == 6
    assert "model.onnx: changed" in capsys.readouterr().err


def edit(bundle: Path, **changes: object) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format_version": 2}, "format version 2; this runner reads 1"),
        ({"files": {}}, "no sha256 for the model file"),
        ({"files": {"model.onnx": "0", "../x": "0"}}, "a file name leaves the folder"),
        ({"files": None}, "TypeError"),
    ],
)
def test_a_wrong_manifest_is_refused(
    bundle: Path, changes: dict[str, object], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(bundle, **changes)
    assert runner.main(["verify", "--bundle", str(bundle)]) == 6
    told = capsys.readouterr().err
    assert told.startswith("error[U02]: not an edgewise bundle")
    assert why in told


def test_no_bundle_another_format_and_a_broken_model(
    bundle: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.main(["verify", "--bundle", str(tmp_path)]) == 6
    assert "error[U02]" in capsys.readouterr().err
    edit(bundle, format="ncnn")
    assert runner.main(["classify", "--bundle", str(bundle), str(picture)]) == 4
    assert "error[E33]: this runner runs onnx and packed bundles only" in capsys.readouterr().err
    (bundle / "model.onnx").write_bytes(b"junk")
    edit(bundle, format="onnx", files={"model.onnx": hashlib.sha256(b"junk").hexdigest()})
    assert runner.main(["classify", "--bundle", str(bundle), str(picture)]) == 6
    assert "error[U61]: not an ONNX file" in capsys.readouterr().err
    model = onnx.load(bundle.parent / "written.onnx")
    model.graph.node[0].op_type = "NoSuchOperator"
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    edit(bundle, files={"model.onnx": hashlib.sha256(model.SerializeToString()).hexdigest()})
    assert runner.main(["classify", "--bundle", str(bundle), str(picture)]) == 6
    assert "error[U04]: onnxruntime refuses this model file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"input": InputSpec(SIZE, SIZE, 1, mean=(0.5,), std=(0.5,))}, "[8, 8, 1, 3]"),
        ({"input": InputSpec(16, SIZE)}, "[16, 8, 3, 3]"),
        ({"labels": ["red", "green"]}, "[8, 8, 3, 2]"),
    ],
)
def test_a_manifest_of_another_model_is_refused(
    tmp_path: Path, picture: Path, changes: dict[str, object], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_bundle(tmp_path, **changes)
    assert runner.main(["classify", "--bundle", str(other), str(picture)]) == 6
    told = capsys.readouterr().err
    assert told.startswith("error[U02]: the manifest does not belong to the model")
    assert f"{shown} in the manifest and [8, 8, 3, 3] in the model" in told


def test_what_is_missing_on_the_board_is_named(
    bundle: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("PIL.__version__", "5.1.0")
        assert runner.main(["classify", "--bundle", str(bundle), str(picture)]) == 4
    assert "error[E32]: Pillow is too old\n  where: 5.1.0" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert runner.main(["classify", "--bundle", str(bundle), str(picture)]) == 4
    assert "error[E10]: onnxruntime cannot be imported" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "a command is missing"),
        (["classify"], "classify takes IMAGE..., not 0 words"),
        (["train"], "no command 'train'"),
        (["verify", "--runs", "3"], "verify has no option --runs"),
        (["verify", "x"], "verify takes none, not 1 words"),
        (["classify", "x.png", "--top"], "--top needs a value"),
        (["classify", "x.png", "--top", "0"], "--top: 1 or more, not 0"),
        (["classify", "x.png", "--top=many"], "--top: invalid literal"),
        (["bench", "a", "b"], "bench takes [IMAGE], not 2 words"),
        (["probe", "--baseline=1"], "--baseline"),
    ],
)
def test_wrong_usage_exits_with_two(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        runner.main(arguments)
    said = capsys.readouterr()
    assert told in said.err
    assert said.out == ""


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_names_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        runner.main([command, "--help"] if command else ["--help"])
    said = capsys.readouterr().out
    for name, (_, options) in COMMANDS.items():
        if command in ("", name):
            assert ABOUT[name] in said
        if command == name:
            assert all(option in said and OPTIONS[option] in said for option in [*options, "--bundle"])


def test_words_are_read_in_any_order() -> None:
    line = ["classify", "a.png", "--top=2", "--threshold", "0.5", "b.png", "--threads", "4", "--", "--top", "-c.png"]
    command, words, options = read_words(line, "here")
    assert (command, words) == ("classify", ["a.png", "b.png", "--top", "-c.png"])
    assert (options["--top"], options["--threshold"], options["--threads"]) == (2, 0.5, 4)
    assert read_words(["classify", "a"], "here")[2]["--top"] == 3
    assert read_words(["probe", "--baseline", "--started", "1.5"], "here")[2]["--baseline"] is True


# --- probe ------------------------------------------------------------------------------------------------------


def test_probe_reports_a_cold_start(bundle: Path) -> None:
    (full,) = lines(run(bundle / "runner.py", "probe", "--runs", 5).stdout)
    (bare,) = lines(run(bundle / "runner.py", "probe", "--baseline").stdout)
    assert full["runs"] == 5
    assert full["load_ms"] > 0
    assert full["first_ms"] > 0
    assert full["median_ms"] > 0
    assert full["versions"]["onnxruntime"] == onnxruntime.__version__
    assert set(bare) == {"baseline_rss_bytes", "versions"}
    assert bare["baseline_rss_bytes"] == pytest.approx(full["baseline_rss_bytes"], rel=0.1)
    assert full["peak_rss_bytes"] >= full["baseline_rss_bytes"] > 10e6


def test_load_is_counted_from_the_given_launch(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(["probe", "--bundle", str(bundle), "--runs", "1", "--started", "0"]) == 0
    (line,) = lines(capsys.readouterr().out)
    assert line["first_ms"] == line["median_ms"]
    (bundle / "manifest.json").unlink()
    assert runner.main(["probe", "--bundle", str(bundle)]) == 6


def test_peak_rss_without_proc_comes_from_getrusage(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    def absent(*arguments: object, **options: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", absent)
    assert peak_rss() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- Without Pillow, and arrays ---------------------------------------------------------------------------------


def hide(tmp_path: Path, *names: str) -> dict[str, str]:
    """An environment in which these packages cannot be imported."""
    folder = tmp_path / "hidden"
    folder.mkdir(exist_ok=True)
    lines = [f"sys.modules[{name!r}] = None\n" for name in names]
    (folder / "sitecustomize.py").write_text("import sys\n" + "".join(lines))
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_without_pillow_it_answers_the_same(bundle: Path, picture: Path, tmp_path: Path) -> None:
    command = [sys.executable, bundle / "runner.py", "classify", picture]
    Image.open(picture).save(tmp_path / "p.jpg")
    np.save(tmp_path / "p.npy", np.asarray(Image.open(picture)))
    with_it = lines(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    done = subprocess.run(
        [*command, tmp_path / "p.jpg", tmp_path / "p.npy"],
        env=hide(tmp_path, "PIL", "cv2"),
        capture_output=True,
        text=True,
        check=False,
    )
    first, jpeg, array = lines(done.stdout)
    assert (first["label"], first["top"]) == (with_it[0]["label"], with_it[0]["top"])
    assert jpeg["error"] == "JPEG needs Pillow (pip install Pillow) or OpenCV"
    assert array["top"] == first["top"]
    assert (done.returncode, done.stderr) == (4, "")


def test_without_pillow_opencv_reads_jpeg(bundle: Path, picture: Path, tmp_path: Path) -> None:
    Image.open(picture).save(tmp_path / "p.jpg")
    command = [sys.executable, bundle / "runner.py", "classify", tmp_path / "p.jpg"]
    done = subprocess.run(command, env=hide(tmp_path, "PIL"), capture_output=True, text=True, check=True)
    assert lines(done.stdout)[0]["label"] == "green"


@pytest.mark.parametrize("kind", ["float", "pickle", "large", "text"])
def test_arrays_that_are_no_pictures(
    bundle: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.npy"
    if kind == "float":
        np.save(path, np.zeros((4, 4)))
    elif kind == "pickle":
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif kind == "large":
        with path.open("wb") as stream:
            np.lib.format.write_array_header_1_0(
                stream, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)}
            )
    else:
        path.write_text("hello")
    assert runner.main(["classify", "--bundle", str(bundle), str(path)]) == 3
    assert "error" in lines(capsys.readouterr().out)[0]


# --- bench ------------------------------------------------------------------------------------------------------


def test_bench_gives_each_clock_with_its_samples(bundle: Path, picture: Path) -> None:
    done = run(bundle / "runner.py", "bench", picture, "--runs", 50)
    load, first, model, e2e, facts = lines(done.stdout)
    assert [load["clock"], first["clock"], model["clock"], e2e["clock"]] == ["load", "first", "model", "e2e"]
    assert (load["n"], first["n"], model["n"], e2e["n"]) == (1, 1, 50, 50)
    assert 0 < model["p50_ms"] <= model["p90_ms"]
    assert e2e["p50_ms"] > model["p50_ms"]
    assert facts["threads"] == 1
    assert facts["versions"]["onnxruntime"] == onnxruntime.__version__


def test_too_few_runs_have_no_90th_percentile(bundle: Path) -> None:
    *_, model, _facts = lines(run(bundle / "runner.py", "bench", "--runs", 43).stdout)
    assert (model["clock"], model["n"]) == ("model", 43)
    assert "p90_ms" not in model


def test_bench_of_a_bad_picture_is_one_message(bundle: Path, tmp_path: Path) -> None:
    done = run(bundle / "runner.py", "bench", tmp_path / "none.png")
    assert (done.returncode, done.stderr) == (3, f"error: {tmp_path / 'none.png'}: not a regular file\n")


# --- camera -----------------------------------------------------------------------------------------------------


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Twelve frames of motion JPEG: four red, four green, four blue."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    assert writer.isOpened()
    for bgr in ((0, 0, 250), (0, 250, 0), (250, 0, 0)):
        for _ in range(4):
            writer.write(np.full((48, 64, 3), bgr, np.uint8))
    writer.release()
    return path


def test_camera_answers_every_nth_frame_in_the_right_colours(bundle: Path, film: Path) -> None:
    done = run(bundle / "runner.py", "camera", film, "--every", 2, "--top", 1)
    *frames, last = lines(done.stdout)
    assert [frame["frame"] for frame in frames] == [0, 2, 4, 6, 8, 10]
    assert [frame["label"] for frame in frames] == ["red", "red", "green", "green", "blue", "blue"]
    assert last == {"camera": str(film), "frames": 12, "answered": 6, "ended": "end"}
    assert done.returncode == 0
    *frames, last = lines(run(bundle / "runner.py", "camera", film, "--frames", 3).stdout)
    assert (len(frames), last["ended"]) == (3, "enough")


class StandIn:
    """A camera: so many frames, then `after` (a lost camera answers False)."""

    def __init__(self, frames: int, after: object) -> None:
        self.frames, self.after, self.released = frames, after, False

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.frames -= 1
        if self.frames >= 0:
            return True, np.full((48, 64), 200, np.uint8)
        if isinstance(self.after, BaseException):
            raise self.after
        return False, None

    def release(self) -> None:
        self.released = True


@pytest.mark.parametrize(("after", "code", "ended"), [(None, 4, "lost"), (KeyboardInterrupt(), 130, "interrupted")])
def test_a_lost_camera_and_ctrl_c_end_cleanly(
    after: object,
    code: int,
    ended: str,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_in = StandIn(2, after)
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: stand_in)
    assert runner.main(["camera", "--bundle", str(bundle)]) == code
    told = capsys.readouterr()
    assert lines(told.out)[-1] == {"camera": "0", "frames": 2, "answered": 2, "ended": ended}
    assert stand_in.released
    assert ("error[E36]: the camera is lost" in told.err) == (ended == "lost")


def test_ctrl_c_reaches_a_running_camera(bundle: Path, tmp_path: Path) -> None:
    """A pipe that is written slowly is a camera that does not end."""
    code = (
        "import runner, cv2, numpy, time\n"
        "class Slow:\n"
        "    isOpened = lambda self: True\n"
        "    read = lambda self: (time.sleep(0.01), (True, numpy.zeros((9, 9, 3), numpy.uint8)))[1]\n"
        "    release = lambda self: print('released', file=runner.sys.stderr)\n"
        "cv2.VideoCapture = lambda source: Slow()\n"
        "runner.sys.exit(runner.main(['camera']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=bundle, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["frame"] == 0
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert lines(out)[-1]["ended"] == "interrupted"
    assert err == "released\n"


def test_what_camera_needs_is_named(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.main(["camera", "--bundle", str(bundle), "97"]) == 4
    assert "error[E35]: the camera cannot be opened\n  where: 97\n  why: cameras here:" in capsys.readouterr().err
    assert runner.main(["camera", "--bundle", str(bundle), "videotestsrc ! appsink"]) == 4
    assert "this OpenCV was built without GStreamer" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert runner.main(["camera", "--bundle", str(bundle)]) == 4
    assert "error[E34]: camera needs OpenCV" in capsys.readouterr().err


# --- The page ---------------------------------------------------------------------------------------------------


def test_every_key_of_the_json_lines_is_on_the_page(bundle: Path, picture: Path, film: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/runner.md").read_text(encoding="utf-8")
    commands = [("classify", picture, "none.png"), ("camera", film), ("bench", picture), ("verify",), ("probe",)]
    for command in commands:
        for line in lines(run(bundle / "runner.py", *command).stdout):
            for key in line:
                assert f"`{key}`" in page, (command[0], key)
