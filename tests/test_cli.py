"""The command line is thin: words in, one public call out; and every error ends with its exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewise import cli
from edgewise.progress import Silent
from edgewise.recipe import DataOptions, Recipe
from tests.report.builders import run_result

ROOT = Path(__file__).parents[1]


class Called(Exception):
    """Carries what a command called."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.args_, self.kwargs = args, kwargs


def raise_called(*args: Any, **kwargs: Any) -> Any:
    raise Called(*args, **kwargs)


def calls(monkeypatch: pytest.MonkeyPatch, target: str, words: list[str]) -> Called:
    monkeypatch.setattr(target, raise_called)
    with pytest.raises(Called) as caught:
        cli.app(words, standalone_mode=False)
    return caught.value


def expected(source: str, **keys: Any) -> Recipe:
    raw: dict[str, Any] = {"name": Path(source).stem, "data": {"source": source}}
    return Recipe.model_validate(raw | keys)


RUN = "edgewise.pipeline.run"
TRAIN = "edgewise.pipeline.train_model"
TABLE: list[tuple[str, list[str], Recipe, str, bool]] = [
    (RUN, ["run", "--data", "faces"], expected("faces"), "runs/faces", False),
    (RUN, ["run", "--data", "digits", "--out", "x", "--force"], expected("digits"), "x", True),
    (
        RUN,
        ["run", "--data", "digits", "--model", "resnet18", "--epochs", "3", "--seed", "7"],
        expected("digits", model="resnet18", train={"epochs": 3}, seed=7),
        "runs/digits",
        False,
    ),
    (
        RUN,
        [
            "run",
            "--data",
            "d",
            "--size",
            "64",
            "--int8",
            "u8s8-rr",
            "--plan",
            "prune(0.7) > distill",
            "--plan",
            "distill",
        ],
        expected(
            "d",
            data={"source": "d", "size": 64},
            export={"int8": "u8s8-rr"},
            variants=[{"plan": "prune(0.7) > distill"}, {"plan": "distill"}],
        ),
        "runs/d",
        False,
    ),
    (
        RUN,
        [
            "run",
            "--data",
            "d",
            "--set",
            "train.lr=0.01",
            "--set",
            "goal.min=0.9",
            "--set",
            "data.split=[0.6, 0.2, 0.2]",
        ],
        expected("d", data={"source": "d", "split": [0.6, 0.2, 0.2]}, train={"lr": 0.01}, goal={"min": 0.9}),
        "runs/d",
        False,
    ),
    (RUN, ["run", "--data", "d", "--weights", "w.pth"], expected("d", weights="w.pth"), "runs/d", False),
    (TRAIN, ["train", "d", "--weights", "runs/fruit"], expected("d", weights="runs/fruit"), "runs/d", False),
    (TRAIN, ["train", "digits", "--epochs", "2"], expected("digits", train={"epochs": 2}), "runs/digits", False),
]


@pytest.mark.parametrize(("target", "words", "recipe", "out", "force"), TABLE)
def test_words_become_one_call(
    target: str,
    words: list[str],
    recipe: Recipe,
    out: str,
    force: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    called = calls(monkeypatch, target, words)
    assert called.args_ == (recipe, Path(out))
    assert called.kwargs["opening"].force is force


EXPLORE = "edgewise.data.explore.explore"


@pytest.mark.parametrize(
    ("words", "options", "kwargs"),
    [
        (["d"], {"source": "d"}, {"model": None, "weights": None, "seed": 0}),
        (
            ["d", "--model", "resnet18", "--weights", "w.pth", "--size", "64", "--seed", "3", "--set", "data.fit=pad"],
            {"source": "d", "size": 64, "fit": "pad"},
            {"model": "resnet18", "weights": "w.pth", "seed": 3},
        ),
    ],
)
def test_data_explore_is_one_call(
    words: list[str], options: dict[str, Any], kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = calls(monkeypatch, EXPLORE, ["data", "explore", *words])
    assert called.args_ == (DataOptions(**options),)
    assert {key: value for key, value in called.kwargs.items() if key != "progress"} == kwargs


def test_data_explore_shows_writes_and_says_what_is_next(
    shapes: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(shapes(per_class=8))
    cli.app(["data", "explore", source, "--quiet"], standalone_mode=False)
    shown = capsys.readouterr().out
    assert shown.startswith("24 images, pixels, 32 x 32\n")
    assert f"next: edgewise data explore {source} --html explore.html" in shown
    page, rows = tmp_path / "e.html", tmp_path / "e.csv"
    words = ["data", "explore", source, "--json", "--html", str(page), "--csv", str(rows)]
    cli.app(words, standalone_mode=False)
    told = capsys.readouterr()
    assert json.loads(told.out)["images"] == 24
    assert told.err.startswith(f"page: {page}\nrows: {rows}\nnext: edgewise data explore {source} --model")
    assert page.exists()
    assert len(rows.read_text().splitlines()) == 25


def test_a_recipe_file_takes_flags_over_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("data: {source: digits}\ntrain: {epochs: 50, lr: 0.01}\n")
    called = calls(monkeypatch, RUN, ["run", str(tmp_path / "r.yaml"), "--epochs", "2", "--out", "o"])
    assert called.args_[0].train.epochs == 2
    assert called.args_[0].train.lr == 0.01


@pytest.mark.parametrize(
    ("target", "words", "args", "kwargs"),
    [
        ("edgewise.models.list_models", ["models", "mobile*"], ("mobile*",), {}),
        (
            "edgewise.models.profile",
            ["profile", "convnet(8,16)", "--classes", "4", "--size", "64", "--channels", "1"],
            ("convnet(8,16)",),
            {"classes": 4, "size": 64, "channels": 1},
        ),
        ("edgewise.results.read_result", ["compare", "a", "b"], (Path("a/results.json"),), {}),
        ("edgewise.device.check.check", ["verify", "b"], (Path("b"), None), {}),
        ("edgewise.device.check.check", ["verify", "b", "--labels", "l"], (Path("b"), Path("l")), {}),
        ("edgewise.archive.pack", ["pack", "a/b"], (Path("a/b"), Path("b.zip")), {}),
        ("edgewise.archive.pack", ["pack", "b", "--out", "c.zip"], (Path("b"), Path("c.zip")), {}),
        ("edgewise.archive.unpack", ["unpack", "a/b.zip"], (Path("a/b.zip"), Path("b")), {}),
        ("edgewise.archive.unpack", ["unpack", "b.zip", "--out", "c"], (Path("b.zip"), Path("c")), {}),
        ("edgewise.doctor.examine", ["doctor"], (), {}),
        ("edgewise.recipe.example", ["recipe"], (), {}),
    ],
)
def test_the_other_commands(
    target: str, words: list[str], args: tuple[Any, ...], kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = calls(monkeypatch, target, words)
    assert (called.args_, called.kwargs) == (args, kwargs)


def test_explain_names_a_run_and_one_of_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for words, args in ((["r"], (Path("r"), "base")), (["r", "--model", "half"], (Path("r"), "half"))):
        called = calls(monkeypatch, "edgewise.pipeline.explain_run", ["explain", *words, "--json"])
        assert called.args_ == args
        assert isinstance(called.kwargs["progress"], Silent)


def test_data_check_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["data", "check", "d", "--seed", "3", "--set", "data.check.dark=20", "--quiet"]
    called = calls(monkeypatch, "edgewise.data.check.check_data", words)
    assert called.args_ == (DataOptions.model_validate({"source": "d", "check": {"dark": 20}}),)
    assert called.kwargs["seed"] == 3


def test_runs_are_numbered_and_never_reused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/digits").mkdir(parents=True)
    (tmp_path / "runs/digits-2").mkdir(parents=True)
    assert calls(monkeypatch, RUN, ["run", "--data", "digits"]).args_[1] == Path("runs/digits-3")


# ---- as a user sees it -----------------------------------------------------------------------------------------


def edgewise(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "edgewise", *words], capture_output=True, text=True, env=environment, check=False, **more
    )


def test_each_command_is_listed_and_documented() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = cli.app.registered_commands
    names = [command.name or command.callback.__name__ for command in commands if command.callback]
    assert len(names) >= 8
    help_text = edgewise("--help").stdout
    for name in names:
        assert re.search(rf"^\s+{name}\s+\S", help_text, re.M)
        assert f"edgewise {name}" in readme
        assert edgewise(name, "--help").returncode == 0


def test_each_command_of_data_is_documented() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [command.name for command in cli.data_app.registered_commands]
    assert "check" in names
    for name in names:
        assert f"edgewise data {name}" in readme
        assert edgewise("data", str(name), "--help").returncode == 0


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("run", "--ephocs", "3"), 2, r"error\[C03\]: No such option: --ephocs"),
        (("run",), 2, r"error\[C04\]: no data"),
        (("runn",), 2, r"error\[C03\]: No such command 'runn'"),
        (("run", "--data", "x", "--epochs", "many"), 2, r"error\[C03\]"),
        (("run", "--data", "digits", "--set", "train.lr=-1"), 2, r"train\.lr = -1: Input should be greater than 0"),
        (("run", "--data", "digits", "--set", "train.lr"), 2, r"error\[C05\]: not KEY=VALUE"),
        (("run", "--data", "digits", "--plan", "prne(0.5)"), 2, r'unknown technique "prne"[\s\S]*did you mean "prune"'),
        (("compress", "--plan", "prune(0.5)"), 2, r"error\[C72\]: no run to compress"),
        (("compress", "nowhere", "--plan", "prune(0.5)"), 2, r"error\[C25\]: there is no run in this folder"),
        (("compare", "nowhere"), 2, r"error\[C22\]: no results here"),
        (("verify", "nowhere"), 6, r"not an edgewise bundle"),
    ],
)
def test_errors_are_one_message_with_a_fix_and_an_exit_code(
    words: tuple[str, ...], code: int, told: str, tmp_path: Path
) -> None:
    done = edgewise(*words, cwd=tmp_path)
    assert done.returncode == code
    assert re.search(told, done.stderr)
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_errors_can_be_json() -> None:
    done = edgewise("verify", "nowhere", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"], told["error"]) == (6, 6, "U02")
    assert done.stderr == ""


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in edgewise("verify", "nowhere", "--debug").stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("run", "--data", "nowhere/at/all"), 3, "nowhere"),
        (("run", "--data", "https://example.org/images.zip"), 3, "download it first"),
        (("train", "digits", "--model", "resnet81"), 2, "resnet18"),
        (("profile", "convnet(0)"), 2, "convnet"),
        (("train", "digits", "--set", "train.device=cuda"), 4, "CUDA was asked for"),
    ],
)
def test_errors_found_later_are_told_the_same_way(words: tuple[str, ...], code: int, told: str, tmp_path: Path) -> None:
    done = edgewise(*words, cwd=tmp_path)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == code


@pytest.mark.slow
def test_a_goal_that_nothing_meets_shows_the_table_and_ends_with_5(shapes: Callable[..., Path], tmp_path: Path) -> None:
    words = ["run", str(tmp_path / "r.yaml"), "--data", str(shapes(12)), "--size", "16", "--epochs", "1", "--out", "r"]
    (tmp_path / "r.yaml").write_text(
        "model: convnet(8, 8)\nvariants: []\ntrain: {lr: 1.0e-6}\ngoal: {min: 1.0}\nmeasure: {seconds: 0.1}\n"
        "export: {int8: u8s8-rr}\n"
    )
    done = edgewise(*words, cwd=tmp_path)
    assert done.returncode == 5
    assert "base-fp32" in done.stdout
    assert "error[G01]: nothing meets the goal" in done.stderr
    assert "the best is base-" in done.stderr
    assert (tmp_path / "r/report.html").exists()
    assert json.loads((tmp_path / "r/run.json").read_text())["status"] == "complete"


def test_compare_prints_rows_as_json(tmp_path: Path) -> None:
    from edgewise.results import to_json

    result = run_result()
    (tmp_path / "results.json").write_text(to_json(result), encoding="utf-8")
    done = edgewise("compare", str(tmp_path), "--json")
    rows = json.loads(done.stdout)
    assert [row["name"] for row in rows] == [row["name"] for row in rows if row["params_total"] > 0]
    assert {"name", "accuracy", "macro_f1", "params_total", "macs", "file_bytes", "latency_p50_ms"} <= set(rows[0])
    assert len(rows) == len(result.measurements)


@pytest.mark.slow
def test_profile_prints_the_published_counts() -> None:
    rows = json.loads(
        edgewise("profile", "convnet(32,64,128,dropout=0.2)", "convnet(8,16,32)", "--size", "128", "--json").stdout
    )
    assert [(row["params_total"], row["macs"], row["flops"]) for row in rows] == [
        (93_954, 165_150_976, 330_301_952),
        (6_210, 12_976_192, 25_952_384),
    ]
    assert all(row["params_total"] == row["params_nonzero"] + row["params_zero"] for row in rows)


@pytest.mark.slow
def test_doctor_knows_this_machine() -> None:
    report = json.loads(edgewise("doctor", "--json").stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert checks["torch"]["ok"]
    assert checks["runtime for onnx"]["detail"] == report["versions"]["onnxruntime"]
    assert all(checks[name]["ok"] and checks[name]["detail"] for name in ("tensorboard", "mlflow", "wandb"))
    assert "umap" in checks


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_true_status(
    sent: signal.Signals, code: int, shapes: Callable[..., Path], tmp_path: Path
) -> None:
    words = ["train", str(shapes(20)), "--size", "32", "--epochs", "5000", "--set", "train.patience=0", "--out", "r"]
    out = tmp_path / "r"
    with subprocess.Popen(
        [sys.executable, "-m", "edgewise", *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (out / "metrics.jsonl").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(sent)
        _, words_said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "interrupted" in words_said
    assert "Traceback" not in words_said
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    assert (out / "checkpoints/base/last.safetensors").exists()
