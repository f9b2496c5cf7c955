"""Unknown keys read from the source file are told exactly as pydantic tells them, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise import recipe as recipe_module
from edgewise.cli.early import check_early, techniques
from edgewise.compress import TECHNIQUES, check_plan
from edgewise.errors import ConfigError
from edgewise.keys import check_keys, read_source
from edgewise.recipe import AugmentOptions, DataOptions, LossOptions, Recipe, TrainOptions, Variant, build
from edgewise.written import Written, read_written

SOURCE = read_source(Path(recipe_module.__file__))


def told_by_pydantic(written: Written) -> str | None:
    try:
        build(Recipe, written.values, written.origin, written.lines)
    except ConfigError as problem:
        return str(problem)
    return None


def told_early(written: Written) -> tuple[str | None, bool]:
    """The message, and whether the values are certainly right."""
    try:
        return None, check_keys(written, SOURCE, "Recipe")
    except ConfigError as problem:
        return str(problem), False


@pytest.mark.parametrize("model", [Recipe, DataOptions, AugmentOptions, LossOptions, TrainOptions, Variant])
def test_the_keys_of_the_file_are_those_of_the_classes(model: type[recipe_module.Strict]) -> None:
    section = SOURCE.sections[model.__name__]
    assert list(section.keys) == list(model.model_fields)
    assert {name for name, key in section.keys.items() if key.required} == {
        name for name, field in model.model_fields.items() if field.is_required()
    }


@pytest.mark.parametrize(
    "values",
    [
        {"data": {"source": "x"}, "train": {"epohcs": 3}},
        {"data": {"source": "x", "sise": 8, "check": {"blury": 1}}, "nam": 1, "trian": {}},
        {"data": {"source": "x", "size": 64}, "train": {"loss": {"nam": "ce", "name": "f1"}, "lr": 1, "batchsize": 2}},
        {"variants": [{"plan": "prune"}, {"plan": "prune(0.5)", "nmae": 1}], "data": {"source": "x"}},
    ],
)
def test_unknown_keys_alone_are_told_early_and_as_by_pydantic(values: dict[str, Any]) -> None:
    written = Written(values, "command line")
    message, _ = told_early(written)
    assert message is not None
    assert message == told_by_pydantic(written)


@pytest.mark.parametrize(
    "values",
    [
        {"data": {"source": "x"}, "train": {"epohcs": 3, "lr": -1}},
        {"data": {"sise": 3}},
        {"dta": {"source": "x"}},
        {"data": {"source": "x", "split": [0.5, 0.5, 0.5]}, "nam": 1},
        {"data": {"source": "x"}, "train": {"epochs": True}, "nam": 1},
        {"data": {"source": "x"}, "variants": [{"plan": "prune("}], "nam": 1},
        {"data": {"source": "x"}, "train": {"loss": {"name": "f1", "smoothing": 0.1}}, "nam": 1},
        {"data": "x", "nam": 1},
        {"data": {"source": "x"}, 3: 4},
    ],
)
def test_where_other_problems_are_possible_pydantic_tells_all(values: dict[str, Any]) -> None:
    assert told_early(Written(values, "command line")) == (None, False)


@pytest.mark.parametrize(
    ("body", "opaque"),
    [
        ("class A(Strict):\n    x: int = 1", False),
        ("class A(B):\n    x: int = 1", True),
        ("class A(Strict):\n    @pydantic.model_validator(mode='after')\n    def f(self): ...", False),
        ("class A(Strict):\n    @pydantic.model_validator(mode='before')\n    def f(cls, values): ...", True),
    ],
)
def test_classes_whose_keys_are_not_all_in_their_body_are_left_to_pydantic(
    tmp_path: Path, body: str, opaque: bool
) -> None:
    (tmp_path / "options.py").write_text(body)
    source = read_source(tmp_path / "options.py")
    assert source.sections["A"].opaque is opaque
    if opaque:
        assert check_keys(Written({"y": 1}, "here"), source, "A") is False
    else:
        with pytest.raises(ConfigError, match="unknown key"):
            check_keys(Written({"y": 1}, "here"), source, "A")


def test_lines_of_a_file_are_told(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("data: {source: x}\ntrain:\n  epohcs: 3\nvariants:\n - {plan: prune, nme: a}\n")
    message, _ = told_early(read_written(path))
    assert message == told_by_pydantic(read_written(path))
    assert 'line 3: unknown key "train.epohcs"; did you mean "epochs"?' in str(message)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.floats(-2, 40),
    st.just(float("nan")),
    st.sampled_from(["ce", "f1", "auto", "near", "off", "x", "prune", "prne(0.5)", "adamw", "cosine", "fp32", "é"]),
)


def sections(model: str, depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """Values for some keys of a section, right or wrong, some of them misspelt."""
    keys = SOURCE.sections[model].keys
    below = {
        "data": "DataOptions",
        "train": "TrainOptions",
        "loss": "LossOptions",
        "goal": "Goal",
        "check": "CheckOptions",
    }
    given_: dict[str, st.SearchStrategy[Any]] = {
        key: sections(below[key], depth + 1) if key in below else SCALARS for key in keys
    }
    given_ |= {"variants": st.lists(sections("Variant", 1), max_size=2)} if model == "Recipe" else {}
    wrong = {f"{key}x": SCALARS for key in list(keys)[:3]}
    needed = {"data": given_.pop("data")} if model == "Recipe" else {}
    needed |= {"source": st.just("x")} if model == "DataOptions" else {}
    # few keys at a time, so that many examples have nothing wrong but their names
    some = st.lists(st.sampled_from(sorted({*given_, *wrong} - set(needed))), max_size=2, unique=True)
    return some.flatmap(lambda names: st.fixed_dictionaries(needed | {name: (given_ | wrong)[name] for name in names}))


@settings(max_examples=400, deadline=None)
@given(sections("Recipe"))
def test_whatever_is_told_early_is_what_pydantic_tells(values: dict[str, Any]) -> None:
    written = Written(values, "command line")
    message, certain = told_early(written)
    if message is not None or certain:
        assert message == told_by_pydantic(written)


def test_techniques_are_read_from_the_registry() -> None:
    assert techniques() == list(TECHNIQUES)
    written = Written({"data": {"source": "x"}, "variants": [{"plan": "prune(0.5) > dstill(tau=3)"}]}, "command line")
    with pytest.raises(ConfigError) as early:
        check_early(written)
    with pytest.raises(ConfigError) as late:
        check_plan("prune(0.5) > dstill(tau=3)")
    assert str(early.value) == str(late.value)
