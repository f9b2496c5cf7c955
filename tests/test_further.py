"""Further plans for a finished run: its base is taken as it is, it stays as it is, and the plans compare themselves."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgewise import cli, further, load_recipe, pipeline, proving
from edgewise.bundle import read_manifest, verify_bundle
from edgewise.errors import ConfigError, DataError, GateError, UntrustedError
from edgewise.models import open_model
from edgewise.models.store import WEIGHTS
from edgewise.recipe import Recipe
from edgewise.results import RunResult, read_result
from edgewise.source import find_source
from edgewise.train.trainer import Trainer
from tests.conftest import draw_shape
from tests.faults.command import wait_for
from tests.test_resume_run import Killed, dies_at, models
from tests.test_walls import HEAVY, loaded_by

CHAINS = ("prune(0.7) > distill > qat", "decompose > distill", "width(0.5) > distill > palettize(4)")
"""Those that the project promises, as they are written there."""


def files(folder: Path) -> dict[str, str]:
    """The sha256 and time of change of every file below a folder."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}" for path in found}


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def source_of(run: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))["source"]
    return facts


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEWISE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the built-in digits with a pruned and a palettized variant."""
    raw = {
        "name": "digits",
        "data": {"source": "digits", "limit_train": 500, "limit_val": 120, "limit_test": 120},
        "model": "convnet(16, 32)",
        "train": {"epochs": 12, "finetune_epochs": 6, "batch_size": 16, "lr": 0.01, "threads": 1},
        "measure": {"seconds": 0.05},
        "controls": False,
        "export": {"precisions": ["fp32"]},
        "variants": [{"plan": "prune(0.5, round_to=1)"}, {"name": "few", "plan": "palettize(4, epochs=0)"}],
    }
    out = tmp_path_factory.mktemp("runs") / "digits"
    pipeline.run(Recipe.model_validate(raw), out)
    return out


@pytest.fixture(scope="module")
def compressed(digits: Path) -> tuple[RunResult, Path]:
    """The three chained plans, one that does nothing and one that cannot be carried out."""
    before = files(digits)
    plans = [*({"plan": plan} for plan in CHAINS), {"name": "nothing", "plan": "prune(ratio=0)"}]
    plans.append({"name": "too-much", "plan": "decompose(by=macs, keep=0.01)"})
    changes = {
        "variants": plans,
        "controls": True,
        "export.precisions": ["int8"],
        "export.int8": "u8s8-rr",
        "export.int8_method": "minmax",
        "export.int8_equalize": False,
        "export.int8_correct": False,
        "export.calibration_images": 64,
        "export.int8_max_drop": 0.5,
        "train.epochs": 10,
    }
    out = digits.parent / "chained"
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(pipeline, "train_base")
        result = further.compress_run(digits, load_recipe(digits / "recipe.yaml", changes), out)
    assert files(digits) == before, "the run that was compressed is another one now"
    return result, out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `edgewise train` on pictures in a folder."""
    images = tmp_path_factory.mktemp("shapes")
    for label in ("cross", "disc", "square"):
        (images / label).mkdir()
        for index in range(16):
            draw_shape(label, index).save(images / label / f"{index:03}.png")
    changes = {
        "data.source": str(images),
        "data.size": 16,
        "model": "convnet(4, 8)",
        "train.epochs": 2,
        "train.batch_size": 16,
        "train.threads": 1,
        "measure.seconds": 0.05,
        "explain": False,
        "export.precisions": ["fp32"],
    }
    out = tmp_path_factory.mktemp("runs") / "shapes"
    pipeline.train_model(load_recipe(None, changes), out)
    return out


# ---- what comes out --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_chained_plan_stands_beside_the_base_and_its_control(compressed: tuple[RunResult, Path]) -> None:
    result, out = compressed
    rows = {row.name: row for row in result.measurements}
    names = ("prune-0.7-distill-qat", "decompose-distill", "width-0.5-distill-palettize-4")
    assert set(rows) == {
        "base-fp32", "base-int8",
        *(f"{name}-{end}" for name in names for end in ("int8", "scratch-fp32")),
    }  # fmt: skip
    base = rows["base-fp32"]
    for name, plan in zip(names, CHAINS, strict=True):
        small, control = rows[f"{name}-int8"], rows[f"{name}-scratch-fp32"]
        assert small.plan == plan
        assert small.cost.params_total < base.cost.params_total
        assert small.cost.macs < base.cost.macs
        assert (control.role, control.cost.params_total) == ("control", small.cost.params_total)
        assert small.test.accuracy.value > 0.3  # of ten classes, after a handful of epochs
        for row in (small, control):
            assert row.difference is not None
            assert row.difference.reference == "base-fp32"
            assert row.latency is not None
            assert row.latency.ratio is not None
            assert row.latency.ratio.low <= row.latency.ratio.value <= row.latency.ratio.high
            verify_bundle(out / row.bundle)
    edits = [edit["edit"] for edit in open_model(out / "model" / names[0]).structure]
    assert (edits[0], edits[-1]) == ("resize", "qat")
    assert "factor" in [edit["edit"] for edit in open_model(out / "model" / names[1]).structure]
    assert open_model(out / "model" / names[2]).structure[-1]["edit"] == "palettize"
    assert result.chosen in rows
    assert rows[str(result.chosen)].role != "control"


@pytest.mark.slow
def test_plans_that_fail_are_told_and_the_others_go_on(compressed: tuple[RunResult, Path]) -> None:
    failures = {failure.name: failure for failure in compressed[0].failures}
    assert set(failures) == {"nothing", "too-much"}
    assert all(failure.stage == "compress" and failure.reason for failure in failures.values())


@pytest.mark.slow
def test_the_base_is_that_of_the_run_and_was_not_trained(digits: Path, compressed: tuple[RunResult, Path]) -> None:
    result, out = compressed
    for name in ("model.safetensors", "structure.json", "config.json"):
        assert (out / "model/base" / name).read_bytes() == (digits / "model/base" / name).read_bytes()
    assert "base" not in {path.name for path in (out / "checkpoints").iterdir()}
    assert "train" not in result.seconds
    before, after = ([line for line in lines(run) if line["variant"] == "base"] for run in (digits, out))
    assert len(before) == 12
    assert after == before
    for name in ("explain.json", "explain.html"):
        assert (out / "explain/base" / name).read_bytes() == (digits / "explain/base" / name).read_bytes()
    earlier = next(row for row in read_result(digits / "results.json").measurements if row.role == "base")
    base = next(row for row in result.measurements if row.role == "base")
    assert (base.test, base.validation, base.cost.macs) == (earlier.test, earlier.validation, earlier.cost.macs)


@pytest.mark.slow
def test_the_images_and_their_split_are_those_of_the_run(digits: Path, compressed: tuple[RunResult, Path]) -> None:
    result, out = compressed
    before, after = ((run / "splits.csv").read_text(encoding="utf-8").splitlines() for run in (digits, out))
    assert sorted(after) == sorted(before)
    assert [line for line in after if ",unused," not in line] == [line for line in before if ",unused," not in line]
    earlier = read_result(digits / "results.json").data
    assert result.data == {**earlier, "split": "as saved in splits.csv"}
    assert earlier["data_hash"]


@pytest.mark.slow
def test_its_lineage_says_where_the_base_came_from(digits: Path, compressed: tuple[RunResult, Path]) -> None:
    result, out = compressed
    digest = hashlib.sha256((digits / "model/base" / WEIGHTS).read_bytes()).hexdigest()
    told = {
        "run": str(digits),
        "model": "base",
        "plan": "",
        "weights_sha256": digest,
        "changed": ["train.epochs: 12 -> 10"],
    }
    assert result.source == told
    assert read_result(out / "results.json") == result
    for row in result.measurements:
        assert read_manifest(out / row.bundle).lineage["source"] == told
    facts = source_of(out)
    assert facts | told == facts
    assert (facts["name"], facts["threads"], facts["amp"]) == ("digits", 1, "off")
    assert facts["versions"]["torch"]
    assert digest in (out / "report.html").read_text(encoding="utf-8")
    assert read_result(digits / "results.json").source == {}


@pytest.mark.slow
def test_what_was_compressed_is_exported_and_compressed_again(compressed: tuple[RunResult, Path]) -> None:
    _, out = compressed
    words = ["export", str(out), "--model", "decompose-distill", "--to", "onnx", "--precision", "fp32", "--quiet"]
    cli.app([*words, "--out", str(out.parent / "exported")], standalone_mode=False)
    lineage = read_manifest(out.parent / "exported/decompose-distill-fp32").lineage
    assert lineage["plan"] == CHAINS[1]
    assert lineage["source"] == {key: source_of(out)[key] for key in lineage["source"]}
    again = find_source(out, "decompose-distill")
    assert again.plan == CHAINS[1]
    assert again.facts(again.recipe)["source"] == source_of(out)


@pytest.mark.slow
def test_another_model_of_the_run_becomes_the_base(
    digits: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command line, whose words are relative, as data on standard output."""
    monkeypatch.chdir(digits.parent)
    before = files(digits)
    words = ["compress", "digits/model/prune-0.5-1", "--plan", "distill(epochs=1)", "--plan", "prune(ratio=0)"]
    cli.app([*words, "--json"], standalone_mode=False)
    told = capsys.readouterr()
    rows = {row["name"]: row for row in json.loads(told.out)}
    assert set(rows) == {"base-fp32", "distill-1-fp32"}, "the run made no controls, so this one makes none"
    out = digits.parent / "digits-compressed"
    assert told.err.splitlines()[-5].startswith("not made: prune-0: ")
    assert told.err.splitlines()[-4].startswith("best:    ")
    assert told.err.splitlines()[-3] == "report:  digits-compressed/report.html"
    half = open_model(digits / "model/prune-0.5-1")
    assert rows["base-fp32"]["params_total"] == sum(values.numel() for values in half.module.parameters())
    assert source_of(out)["run"] == "digits"
    assert source_of(out)["plan"] == "prune(0.5, round_to=1)"
    assert [line["epoch"] for line in lines(out) if line["variant"] == "base"] == [1, 2, 3, 4, 5, 6]
    assert read_result(out / "results.json").failures[0].name == "prune-0"
    assert not (out / "explain").exists(), "the run does not explain this model"
    assert files(digits) == before
    found = pipeline.explain_run(out)
    assert [one.before for one in found.looks] != [one.after for one in found.looks]


@pytest.mark.slow
def test_a_goal_that_nothing_meets_ends_as_in_run(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compress", str(trained), "--plan", "distill(epochs=1)", "--no-controls", "--set", "goal.min=1.0"]
    with pytest.raises(GateError, match="nothing meets the goal"):
        cli.app([*words, "--quiet", "--out", str(tmp_path / "new")], standalone_mode=False)
    assert "distill-1-fp32" in capsys.readouterr().out
    assert read_result(tmp_path / "new/results.json").chosen is None


# ---- stopped and resumed ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_in_any_stage_it_ends_with_the_same_models(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the run it began with is gone once the base was copied."""
    run = tmp_path / "shapes"
    shutil.copytree(trained, run)
    plans = [{"name": "both", "plan": "prune(0.5, round_to=1) > distill"}, {"plan": "distill"}]
    recipe = load_recipe(run / "recipe.yaml", {"variants": plans})
    further.compress_run(run, recipe, tmp_path / "straight")
    out = tmp_path / "killed"
    opening = pipeline.Opening()
    stages: list[tuple[Any, str, int]] = [
        *((further, "keep", 1), (Trainer, "_step", 3), (Trainer, "_step", 9)),
        *((proving, "deliver", 2), (proving.latency, "measure", 1)),
    ]
    for home, name, at in stages:
        with monkeypatch.context() as patch:
            dies_at(patch, home, name, at)
            with pytest.raises(Killed):
                further.compress_run(None if opening.resume else run, recipe, out, opening=opening)
        if name == "_step":
            assert (out / "model/base").is_dir()
            shutil.rmtree(run, ignore_errors=True)
        opening = pipeline.Opening(resume=True)
    further.compress_run(None, recipe, out, opening=opening)
    kept = [models(tmp_path / place) for place in ("straight", "killed")]
    assert kept[0] == kept[1]
    assert set(kept[0]) == {"base", "both", "both-scratch", "distill"}
    places = (tmp_path / "straight", out)
    logged = [[(line["variant"], line["epoch"]) for line in lines(place)] for place in places]
    assert logged[0] == logged[1]
    assert logged[0][:2] == [("base", 1), ("base", 2)]
    bundles = [sorted(path.name for path in (place / "bundles").iterdir()) for place in places]
    assert bundles[0] == bundles[1]
    with pytest.raises(ConfigError, match="this run is complete"):
        further.compress_run(None, recipe, out, opening=opening)


def test_a_base_that_was_replaced_before_it_was_copied_is_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = tmp_path / "shapes", tmp_path / "new"
    shutil.copytree(trained, run)
    recipe = load_recipe(run / "recipe.yaml", {"variants": [{"plan": "distill"}]})
    with monkeypatch.context() as patch:
        dies_at(patch, further, "keep", 1)
        with pytest.raises(Killed):
            further.compress_run(run, recipe, out)
    with (run / "model/base" / WEIGHTS).open("r+b") as stream:
        stream.seek(-1, 2)
        last = stream.read(1)[0]
        stream.seek(-1, 2)
        stream.write(bytes([last ^ 1]))
    with pytest.raises(ConfigError, match="another one now") as caught:
        further.compress_run(None, recipe, out, opening=pipeline.Opening(resume=True))
    assert caught.value.code == "C75"
    with pytest.raises(UntrustedError, match="U11"):
        further.compress_run(run, recipe, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_signal_saves_and_the_words_it_leaves_go_on(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "shapes"
    shutil.copytree(trained, run)
    before = files(run)
    words = ["--plan", "prune(0.5, round_to=1)", "--no-controls", "--set", "train.patience=0", "--quiet"]
    command = [sys.executable, "-m", "edgewise", "compress"]
    with subprocess.Popen(
        [*command, "shapes", *words, "--set", "train.finetune_epochs=9000"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        out = tmp_path / "shapes-compressed"
        wait_for(lambda: (out / "metrics.jsonl").exists() and len(lines(out)) > 4, process, 120)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "go on with: edgewise compress --resume shapes-compressed" in said
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    refused = subprocess.run(
        [sys.executable, "-m", "edgewise", "run", "--resume", "shapes-compressed"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert "edgewise compress --resume shapes-compressed" in refused.stderr
    epochs = lines(out)[-1]["epoch"] + 2
    done = subprocess.run(
        [*command, "--resume", "shapes-compressed", "--set", f"train.finetune_epochs={epochs}"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-4].startswith("best: ")
    assert lines(out)[-1]["epoch"] == epochs
    assert read_result(out / "results.json").source["model"] == "base"
    assert files(run) == before


# ---- refused ---------------------------------------------------------------------------------------------------


def refusal(place: Path, words: list[str]) -> ConfigError:
    """What the command line says; it must have made nothing and loaded no model."""
    here = sorted(place.parent.iterdir())
    with pytest.raises(ConfigError) as caught:
        cli.app(["compress", str(place), *words], standalone_mode=False)
    assert sorted(place.parent.iterdir()) == here
    return caught.value


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("data.size=24", "data.size: 16 -> 24"),
        ("data.split=[0.6, 0.2, 0.2]", "data.split"),
        ("model=convnet(8)", 'model: "convnet(4, 8)" -> "convnet(8)"'),
        ("pretrained=true", "pretrained: false -> true"),
        ("weights=w.pth", 'weights: null -> "w.pth"'),
        ("seed=1", "seed: 0 -> 1"),
    ],
)
def test_what_belongs_to_the_images_or_the_base_cannot_be_set(trained: Path, setting: str, line: str) -> None:
    problem = refusal(trained, ["--plan", "distill", "--set", setting, "--set", "train.lr=0.1"])
    assert problem.code == "C71"
    assert line in problem.why
    assert "train.lr" not in problem.why
    assert problem.fix


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], "C72"),
        (["--plan", "prune(0.5"], "C10"),
        (["--plan", "prne(0.5)"], "C11"),
        (["--plan", "prune(ration=0.5)"], "C02"),
        (["--plan", "palettize(4) > distill"], "C12"),
        (["--plan", "distill", "--plan", "distill"], "C13"),
        (["--plan", "distill", "--model", "bas"], "C80"),
        (["--plan", "distill", "--to", "onyx"], "C02"),
        (["--plan", "distill", "--set", "train.folds=3"], "C52"),
    ],
)
def test_wrong_words_are_told(trained: Path, words: list[str], code: str) -> None:
    assert refusal(trained, words).code == code


@pytest.mark.slow
def test_a_plan_that_would_undo_what_made_the_model_is_refused(digits: Path) -> None:
    problem = refusal(digits, ["--model", "few", "--plan", "distill"])
    assert (problem.code, problem.what) == ("C12", '"distill" cannot follow "palettize"')
    assert "few values for the weights" in problem.why
    assert "--model" in problem.fix


def test_the_run_itself_is_no_place_for_the_new_one(trained: Path) -> None:
    before = files(trained)
    for place in (trained, trained / "more", trained.parent):
        problem = refusal(trained, ["--plan", "distill", "--out", str(place), "--force"])
        assert problem.code == "C74"
    assert files(trained) == before


def test_what_is_no_finished_run_is_refused(trained: Path, tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere", ["--plan", "distill"]).code == "C25"
    run = tmp_path / "shapes"
    shutil.copytree(trained, run)
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**facts, "status": "interrupted"}))
    assert refusal(run, ["--plan", "distill"]).code == "C81"
    recipe = load_recipe(run / "recipe.yaml", {"variants": [{"plan": "distill"}]})
    with pytest.raises(ConfigError, match="trains its base itself") as caught:
        further.compress_run(None, recipe, run, opening=pipeline.Opening(resume=True))
    assert (caught.value.code, caught.value.fix.split(";")[0]) == ("C73", f"edgewise run --resume {run}")
    with pytest.raises(ConfigError, match="knows what it compresses"):
        cli.app(["compress", str(run), "--resume", str(run)], standalone_mode=False)


def test_images_that_changed_are_refused(trained: Path, tmp_path: Path) -> None:
    run, images = tmp_path / "shapes", tmp_path / "images"
    shutil.copytree(trained, run)
    recipe = load_recipe(run / "recipe.yaml")
    shutil.copytree(recipe.data.source, images)
    moved = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": str(images)})})
    (run / "recipe.yaml").write_text(json.dumps(moved.model_dump(mode="json")))  # JSON is YAML
    draw_shape("disc", 900).save(images / "disc/003.png")
    recipe = load_recipe(run / "recipe.yaml", {"variants": [{"plan": "distill"}]})
    accepting = pipeline.Opening(accept_changes=True)
    with pytest.raises(DataError, match="not those of the saved split") as caught:
        further.compress_run(run, recipe, tmp_path / "new", opening=accepting)
    assert (caught.value.code, caught.value.exit_code) == ("D32", 3)
    assert "disc/003.png" in caught.value.why


@pytest.mark.parametrize("plan", ["prne(0.5)", "prune(0.5) > dstill"])
def test_a_mistyped_technique_is_told_without_anything_heavy(trained: Path, plan: str) -> None:
    exit_code, modules = loaded_by(["compress", str(trained), "--plan", plan])
    assert exit_code == 2
    assert not modules & {*HEAVY, "pydantic"}


@pytest.mark.parametrize(
    "words",
    [
        ["--plan", "qat > distill"],
        ["--plan", "distill", "--model", "bse"],
        ["--plan", "distill", "--set", "data.size=24"],
    ],
)
def test_what_does_not_fit_the_run_is_told_without_torch(trained: Path, words: list[str]) -> None:
    exit_code, modules = loaded_by(["compress", str(trained), *words])
    assert exit_code == 2
    assert "torch" not in modules


# ---- the command line is thin ----------------------------------------------------------------------------------


def test_words_become_one_call(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[str, Any] = {}

    def call(*args: Any, **more: Any) -> RunResult:
        called.update(args=args, **more)
        raise Killed

    monkeypatch.setattr(further, "compress_run", call)
    words = ["--plan", "prune(0.7) > distill", "--plan", "distill", "--name", "lean", "--controls", "--to", "onnx,ncnn"]
    more = ["--precision", "fp32", "--set", "train.epochs=3", "--set", "goal.min=0.5", "--force", "--quiet"]
    with pytest.raises(Killed):
        cli.app(["compress", str(trained), *words, *more], standalone_mode=False)
    recipe = load_recipe(
        trained / "recipe.yaml",
        {
            "name": "lean",
            "variants": [{"plan": "prune(0.7) > distill"}, {"plan": "distill"}],
            "controls": True,
            "export.formats": ["onnx", "ncnn"],
            "export.precisions": ["fp32"],
            "train.epochs": 3,
            "goal.min": 0.5,
        },
    )
    assert called["args"] == (trained, recipe, trained.parent / "lean")
    assert called["model"] is None
    assert (called["opening"].force, called["opening"].resume) == (True, False)
    again = load_recipe(trained / "recipe.yaml", {"variants": [{"plan": "distill"}], "name": "shapes-compressed"})
    for place in (trained.parent / "shapes-compressed", trained.parent / "shapes-compressed-2"):
        with pytest.raises(Killed):
            cli.app(["compress", str(trained), "--plan", "distill"], standalone_mode=False)
        assert called["args"] == (trained, again, place)
        place.mkdir()
    for number in ("", "-2"):
        (trained.parent / f"shapes-compressed{number}").rmdir()


def test_records_of_the_training_may_be_damaged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert further._records(path, "base") == ()
    path.write_text('{"variant": "half", "epoch": 1}\n{"variant": "base", "epoch": 1}\n{"variant": "half"}\n')
    assert further._records(path, "half") == ({"variant": "base", "epoch": 1},)
    path.write_text('{"variant": "half", "ep')
    assert further._records(path, "half") == ()
