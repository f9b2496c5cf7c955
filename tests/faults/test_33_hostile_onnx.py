"""A hostile or foreign ONNX file is refused before a session is built, and nothing outside it is opened."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.device.tiny import LABELS, Edit, make_bundle, outside


def huge(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [10**6, 10**6]


def rank(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 192]))


def dtype(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 8, 8, 3]))


def custom(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "pyopmulti_1"
    model.opset_import.append(helper.make_opsetid("pyopmulti_1", 1))


HOSTILE: dict[str, tuple[Edit, str]] = {
    "weights in ../../etc/passwd": (outside("../../etc/passwd"), "U62"),
    "weights in /etc/passwd": (outside("/etc/passwd"), "U62"),
    "a shape of 10^12": (huge, "U65"),
    "wrong rank": (rank, "U63"),
    "wrong dtype": (dtype, "U63"),
    "custom operators": (custom, "U64"),
}


def hostile(folder: Path, edit: Edit) -> Path:
    """A bundle whose manifest is right about its hostile model."""
    bundle = make_bundle(folder)
    model = onnx.load(bundle / "model.onnx")
    edit(model)
    put(bundle, model.SerializeToString())
    return bundle


def put(bundle: Path, content: bytes) -> None:
    (bundle / "model.onnx").write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["model.onnx"] = hashlib.sha256(content).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    np.save(tmp_path / "p.npy", np.zeros((9, 9, 3), np.uint8))
    return tmp_path / "p.npy"


@pytest.mark.parametrize("name", HOSTILE)
def test_the_command_the_library_and_the_runner_refuse_it(name: str, tmp_path: Path, picture: Path) -> None:
    edit, code = HOSTILE[name]
    bundle = hostile(tmp_path / "b", edit)
    for done in (
        run("-m", "edgewise", "verify", bundle),
        run("-m", "edgewise", "verify", bundle / "model.onnx"),
        run(bundle / "runner.py", "classify", picture),
        run(bundle / "runner.py", "bench"),
    ):
        assert done.returncode == 6, done.stderr
        assert f"error[{code}]" in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def opened(trace: Path) -> set[str]:
    """The paths that a traced process opened."""
    paths = set()
    for line in trace.read_text().splitlines():
        if "open" in line and '"' in line and "ENOENT" not in line:
            paths.add(line.split('"')[1])
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_outside_is_opened_and_no_session_is_built(name: str, tmp_path: Path, picture: Path) -> None:
    """Seen by the kernel: strace lists every file that the process opens."""
    bundle = hostile(tmp_path / "b", HOSTILE[name][0])
    secret = tmp_path / "secret"
    secret.write_text("x")
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-e", "trace=open,openat,openat2,execve,connect", "-o", trace, sys.executable]
    done = subprocess.run(
        [*map(str, command), str(bundle / "runner.py"), "classify", str(picture)], capture_output=True, check=False
    )
    assert done.returncode == 6
    paths = opened(trace)
    assert str(bundle / "model.onnx") in paths
    assert not any("passwd" in path or "secret" in path for path in paths)
    inside = {path for path in paths if path.startswith(str(tmp_path)) and not path.endswith((".pyc", "__pycache__"))}
    assert inside <= {str(bundle), *map(str, bundle.iterdir())}
    assert not any("onnxruntime" in path for path in paths)  # the runtime is not even imported


@pytest.mark.slow
def test_the_trace_would_show_an_open_file(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-e", "trace=open,openat", "-o", str(trace), sys.executable, "-c", "open('/etc/passwd')"]
    subprocess.run(command, check=True)
    assert "/etc/passwd" in opened(trace)


def test_a_linked_model_a_pipe_and_three_gigabytes(tmp_path: Path, picture: Path) -> None:
    for number, (make, why) in enumerate(
        [
            (lambda path: path.symlink_to("/etc/passwd"), "symbolic link"),
            (os.mkfifo, "a pipe"),
            (lambda path: path.open("wb").truncate(3 << 30), "3221225472 bytes, more than"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        make(folder / "model.onnx")
        done = run("-m", "edgewise", "verify", folder / "model.onnx")
        assert (done.returncode, "error[U60]" in done.stderr, why in done.stderr) == (6, True, True)


def test_three_gigabytes_in_a_bundle_are_refused_by_the_runner(tmp_path: Path, picture: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    code = (
        "import hashlib, runner, sys\n"
        "runner._sha256 = lambda path: '0'\n"  # hashing 3 GB of nothing takes seconds; its check is another test
        f"sys.exit(runner.main(['classify', '--bundle', '.', {str(picture)!r}]))\n"
    )
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["model.onnx"] = "0"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with (bundle / "model.onnx").open("wb") as stream:
        stream.truncate(3 << 30)
    done = subprocess.run([sys.executable, "-c", code], cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert "error[U60]: the model file is too large" in done.stderr


def test_a_model_without_labels_asks_for_them(tmp_path: Path) -> None:
    model = make_bundle(tmp_path / "b") / "model.onnx"
    done = run("-m", "edgewise", "verify", model)
    assert done.returncode == 3
    assert "error[D36]" in done.stderr
    assert "--labels" in done.stderr
    few, right = tmp_path / "few.txt", tmp_path / "right.txt"
    few.write_text("red\n")
    right.write_text("\n".join(LABELS) + "\n")
    done = run("-m", "edgewise", "verify", model, "--labels", few)
    assert (done.returncode, "error[D37]" in done.stderr, "1 labels, 3 scores" in done.stderr) == (3, True, True)
    done = run("-m", "edgewise", "verify", model, "--labels", right, "--json")
    assert (done.returncode, json.loads(done.stdout)[0]["classes"]) == (0, 3)


def test_labels_in_the_file_itself_are_enough(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b") / "model.onnx"
    model = onnx.load(path)
    model.metadata_props.add(key="edgewise.labels", value=json.dumps(LABELS))
    onnx.save(model, tmp_path / "own.onnx")
    assert run("-m", "edgewise", "verify", tmp_path / "own.onnx").returncode == 0


def test_a_manifest_with_another_size_is_refused_and_named(tmp_path: Path) -> None:
    from edgewise.bundle import InputSpec

    bundle = make_bundle(tmp_path / "b", input=InputSpec(16, 8))
    done = run("-m", "edgewise", "verify", bundle)
    assert (done.returncode, "error[U06]" in done.stderr) == (6, True)
    assert "Traceback" not in done.stderr
