"""The recipe file, its messages, and the language of plans."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgewise.errors import ConfigError
from edgewise.plan import Call, format_plan, parse_call, parse_plan
from edgewise.recipe import Recipe, dump_recipe, example, load_recipe, meanings
from edgewise.written import parse_settings

names = st.from_regex(r"[a-z][a-z0-9_]{0,8}(\.[a-z][a-z0-9_]{0,5})?", fullmatch=True).filter(
    lambda name: (
        not {"True", "False", "None", "if", "in", "is", "or", "and", "not", "as", "for", "def", "del"}
        & set(name.split("."))
        and all(part not in __import__("keyword").kwlist for part in name.split("."))
    )
)
scalars = st.one_of(
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.booleans(),
    st.none(),
    st.text(max_size=8),
    names,
)
values = st.one_of(scalars, st.lists(scalars, max_size=3).map(tuple))
keywords = names.filter(lambda name: "." not in name)
calls = st.builds(Call, names, st.lists(values, max_size=3).map(tuple), st.dictionaries(keywords, values, max_size=3))


@given(st.lists(calls, min_size=1, max_size=4).map(tuple))
def test_a_plan_survives_being_written_and_read(plan: tuple[Call, ...]) -> None:
    assert parse_plan(format_plan(plan)) == plan


def test_calls_nest_as_text() -> None:
    (step,) = parse_plan("distill(student=convnet(8,16,32, dropout=0.1), tau=4)")
    assert step == Call("distill", (), {"student": "convnet(8, 16, 32, dropout=0.1)", "tau": 4})
    assert parse_call(step.kwargs["student"]) == Call("convnet", (8, 16, 32), {"dropout": 0.1})


def test_the_empty_plan() -> None:
    assert parse_plan("  ") == ()
    assert format_plan(()) == ""


@pytest.mark.parametrize(
    "text",
    [
        "prune(",
        "prune(0.7) < distill",
        "prune(0.7) > ",
        "1 + 2",
        "prune(**x)",
        "prune(lambda: 0)",
        "f'{x}'",
        "prune(a+b)",
    ],
)
def test_what_is_not_a_plan_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot read this plan") as caught:
        parse_plan(text)
    assert caught.value.exit_code == 2


def test_nothing_in_a_plan_is_evaluated(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    with pytest.raises(ConfigError):
        parse_plan(f"prune(open({str(canary)!r}, 'w').close())")
    assert not canary.exists()


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "recipe.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_all_problems_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "data:\n  source: digits\n  sise: 3\ntrain: {epocs: 3, lr: -1}\nvariants:\n - {pln: x}\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    told = caught.value.why.splitlines()
    assert 'line 3: unknown key "data.sise"; did you mean "size"?' in told
    assert 'line 4: unknown key "train.epocs"; did you mean "epochs"?' in told
    assert any(line.startswith("line 4: train.lr = -1: Input should be greater than 0") for line in told)
    assert "line 6: variants.0.plan is missing" in told
    assert caught.value.exit_code == 2


def test_plans_may_be_yaml_lists(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {source: digits}\nvariants:\n - plan: [{prune: {ratio: 0.7}}, distill]\n")
    (variant,) = load_recipe(path).variants or ()
    assert variant.plan == "prune(ratio=0.7) > distill"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("data: {source: digits}\ndata: {source: other}\n", 'the key "data" stands twice, in lines 1 and 2'),
        ("data:\n\tsource: digits\n", "cannot start any token"),
        ("a: &a [x]\nb: *a\n", "aliases are not used"),
        ("- a\n- b\n", "a recipe is a YAML mapping"),
        (b"data: {source: caf\xe9}\n", "not UTF-8"),
        ("#" * 1_000_001, "too large"),
    ],
)
def test_hostile_or_broken_yaml_is_refused(tmp_path: Path, text: str | bytes, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_recipe(write(tmp_path, text))


def test_bom_and_crlf_are_accepted(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbfdata:\r\n  source: digits\r\nseed: 3\r\n")
    assert load_recipe(path).seed == 3


def test_a_missing_recipe_offers_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, "data: {source: digits}")
    with pytest.raises(ConfigError, match=r"did you mean .*recipe\.yaml"):
        load_recipe(tmp_path / "recipes.yaml")


def test_weights_beside_the_recipe_are_found(tmp_path: Path) -> None:
    (tmp_path / "fruit.pth").touch()
    assert load_recipe(write(tmp_path, "data: {source: digits}\nweights: fruit.pth")).weights == str(
        tmp_path / "fruit.pth"
    )
    assert load_recipe(write(tmp_path, "data: {source: digits}\nweights: other.pth")).weights == "other.pth"


def test_a_model_starts_from_one_set_of_weights(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {source: digits}\npretrained: true\nweights: w.pth")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert "line 3: weights = w.pth: pretrained is set too" in caught.value.why


def test_a_source_beside_the_recipe_is_found(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert load_recipe(write(tmp_path, "data: {source: photos}")).data.source == str(tmp_path / "photos")


def test_changes_are_laid_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {source: digits}\ntrain: {epochs: 5, lr: 0.01}\n")
    recipe = load_recipe(path, {"train.epochs": 9, "data.source": "faces"})
    assert (recipe.train.epochs, recipe.train.lr, recipe.data.source, recipe.name) == (9, 0.01, "faces", "recipe")
    with pytest.raises(ConfigError, match="is not a recipe key"):
        load_recipe(path, {"train.epochs.more": 1})


def test_a_written_recipe_reads_back_the_same(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "data: {source: digits}\nvariants: [{plan: 'prune(0.7) > distill(tau=2)'}]\n"))
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


def test_the_example_is_a_valid_recipe_that_names_every_key() -> None:
    shown = yaml.safe_load(example())
    recipe = Recipe.model_validate(shown)
    assert set(shown) == set(Recipe.model_fields)
    for section in ("data", "train", "augment", "export", "measure", "goal"):
        assert set(shown[section]) == set(type(getattr(recipe, section)).model_fields)


def test_keys_of_keys_can_be_set(tmp_path: Path) -> None:
    recipe = load_recipe(None, {"data.source": "digits", "train.loss.name": "focal", "augment.crop_scale": [0.5, 1]})
    assert (recipe.train.loss.name, recipe.augment.crop_scale) == ("focal", (0.5, 1.0))
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe
    with pytest.raises(ConfigError, match=r'unknown key "train.loss.nam"; did you mean "name"'):
        load_recipe(None, {"data.source": "digits", "train.loss.nam": "ce"})


def test_every_key_has_a_description() -> None:
    recipe = Recipe(data={"source": "x"})
    sections = (recipe, recipe.data, recipe.train, recipe.train.loss, recipe.augment, recipe.goal)
    for section in map(type, sections):
        assert set(meanings(section)) == set(section.model_fields)


@pytest.mark.parametrize("recipe", sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_recipes_are_valid(recipe: Path) -> None:
    from edgewise.variants import resolve_variants

    read = load_recipe(recipe)
    assert len(resolve_variants(read)) == (3 if read.variants is None else len(read.variants))


def test_off_is_a_word_and_truth_is_true_or_false(tmp_path: Path) -> None:
    words = parse_settings(["data.duplicates=off", "train.amp=off", "data.download=yes", "explain=false"])
    recipe = load_recipe(None, {"data.source": "digits"} | words)
    assert (recipe.data.duplicates, recipe.train.amp, recipe.data.download, recipe.explain) == (
        "off",
        "off",
        True,
        False,
    )
    text = "data: {source: digits, duplicates: off, download: no}\ntrain: {amp: off}\ncontrols: true\n"
    read = load_recipe(write(tmp_path, text))
    assert (read.data.duplicates, read.train.amp, read.data.download, read.controls) == ("off", "off", False, True)
    assert load_recipe(write(tmp_path, dump_recipe(read))) == read
