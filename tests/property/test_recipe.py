"""What holds for every recipe: slips are named, layers mean what they say, and no text brings a traceback."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.recipe.data import Dataset
from pipelines.recipe.evaluation import EvaluateStage, TaskConfig
from pipelines.recipe.launch import Launch
from pipelines.recipe.layers import overlay
from pipelines.recipe.load import find_problems, load_recipe
from pipelines.recipe.model import ModelConfig
from pipelines.recipe.root import Recipe
from pipelines.recipe.sections import STAGES
from pipelines.recipe.show import show_recipe
from pipelines.recipe.stages import PpoStage
from pipelines.recipe.tree import Node, Place, read_value
from pipelines.recipe.words import closest

# More examples: EXAMPLES=1000 pytest tests/property
often = settings(max_examples=int(os.environ.get("EXAMPLES", "30")), deadline=None)

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "seed": 7,
    "data": {
        "village": {"builtin": "microworld/text", "holdout": 0.02},
        "chats": {"builtin": "microworld/chat", "limit": 100},
        "preferences": {"builtin": "microworld/preferences", "max_dropped": 0.5},
        "prompts": {"builtin": "microworld/prompts"},
    },
    "model": {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 256},
    "stages": {
        "tokenizer": {"vocab_size": 512, "data": {"village": 0.5, "chats": 0.5}},
        "pretrain": {"data": "village", "duration": "9 steps", "global_batch_size": 16, "learning_rate": 0.001},
        "sft": {
            "model": "pretrain",
            "data": "chats",
            "duration": "2 epochs",
            "global_batch_size": 8,
            "learning_rate": 0.001,
            "warmup_steps": 5,
            "assistant_only_loss": True,
        },
        "reward": {
            "model": "sft",
            "data": "preferences",
            "duration": "1 epochs",
            "global_batch_size": 8,
            "learning_rate": 0.0001,
            "center_rewards_coefficient": 0.01,
        },
        "gentle": {"like": "dpo", "beta": 0.3},
        "dpo": {
            "model": "sft",
            "data": "preferences",
            "duration": "1 epochs",
            "global_batch_size": 8,
            "learning_rate": 0.0001,
            "loss_type": "sigmoid",
        },
        "ppo": {
            "model": "sft",
            "data": "prompts",
            "reward_funcs": "reward",
            "duration": "25 rollouts",
            "rollout_batch_size": 64,
            "global_batch_size": 16,
            "max_completion_length": 64,
            "learning_rate": 0.0002,
        },
        "evaluate": {
            "models": ["pretrain", "sft", "gentle"],
            "tasks": [{"name": "blimp", "num_fewshot": 1}, {"name": "bits_per_byte", "data": "village"}],
            "apply_chat_template": False,
        },
    },
    "launch": {"config": "cpu", "micro_batch_size": 2, "stages": {"sft": {"checkpoint_every": 5}}},
}
FREE = {(), ("data",), ("stages",), ("launch", "stages")}
"""Below these (and in mixtures) names are free; a slip there is another name."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipe") / "r.yaml"


def write(path: Path, recipe: Any) -> Path:
    path.write_text(json.dumps(recipe, indent=1))
    return path


def keys(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths of all keys of a recipe that are names of fields."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, below in items:
        free = path in FREE - {()} or path[2:] == ("data",)
        if isinstance(key, str) and not free:
            found.append((*path, key))
        found += keys(below, (*path, key))
    return found


def at(recipe: Any, path: tuple) -> Any:
    for key in path:
        recipe = recipe[key]
    return recipe


@st.composite
def slips(draw: st.DrawFn, word: str) -> str:
    """A word with one letter missing, added, wrong, or swapped with the next."""
    where = draw(st.integers(0, len(word) - 1))
    letter = draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz_"))
    changed = draw(
        st.sampled_from(
            [
                word[:where] + word[where + 1 :],
                word[:where] + letter + word[where:],
                word[:where] + letter + word[where + 1 :],
                word[:where] + word[where + 1 : where + 2] + word[where] + word[where + 2 :],
            ]
        )
    )
    return changed if changed and changed != word else f"{word}x"


def all_slips(word: str) -> set[str]:
    """Every missing and doubled letter and swap, and some wrong letters."""
    found = set()
    for i in range(len(word)):
        found |= {word[:i] + word[i + 1 :], word[:i] + word[i] + word[i:], word[:i] + "q" + word[i + 1 :]}
        found.add(word[:i] + word[i + 1 : i + 2] + word[i] + word[i + 2 :])
    return found - {word, ""}


def test_the_recipe_is_good(path: Path) -> None:
    assert find_problems(write(path, RECIPE)) == []


def test_a_slip_in_any_field_of_any_section_is_put_right() -> None:
    right = total = 0
    for section in (Recipe, ModelConfig, Dataset, Launch, TaskConfig, PpoStage, EvaluateStage):
        fields = list(section.model_fields)
        for field in fields:
            named = [closest(slip, fields) == field for slip in all_slips(field) - set(fields)]
            right, total = right + sum(named), total + len(named)
    assert right / total >= 0.98


@often
@given(data=st.data())
def test_a_slip_in_a_key_is_one_line_with_the_right_word(path: Path, data: st.DataObject) -> None:
    where = data.draw(st.sampled_from(keys(RECIPE)))
    slip = data.draw(slips(where[-1]))
    recipe = copy.deepcopy(RECIPE)
    block = at(recipe, where[:-1])
    if slip in block or find_word(slip):
        return  # it is another field's name: not a slip that anyone could see
    renamed = {slip if key == where[-1] else key: value for key, value in block.items()}
    block.clear()
    block.update(renamed)
    problems = find_problems(write(path, recipe))
    assert len(problems) == 1, list(map(str, problems))
    assert problems[0].message.startswith("unknown field; did you mean '")
    lines = path.read_text().splitlines()
    assert f'"{slip}"' in lines[problems[0].line - 1][problems[0].column - 1 :]


def find_word(word: str) -> bool:
    sections = (Recipe, TaskConfig, *STAGES.values())
    return any(word in section.model_fields for section in sections) or word in ("extends", "like", "lr", "dim")


# Every leaf that can be set, with good and bad values alike.
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**6),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.sampled_from(["sft", "pretrain", "village", "cpu", "no", "2 epochs", "", "bf16", "x: y", "'", "[", "1e-3"]),
    st.lists(st.sampled_from(["sft", "dpo", 1]), max_size=2),
)


def leaves(value: Any, path: tuple = ()) -> list[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    below = [leaf for key, child in items for leaf in leaves(child, (*path, key))]
    return below or [path]


def dotted(path: tuple) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


@often
@given(where=st.sampled_from(leaves(RECIPE)), value=VALUES)
def test_set_means_what_the_same_words_in_the_file_mean(path: Path, where: tuple, value: Any) -> None:
    recipe = copy.deepcopy(RECIPE)
    at(recipe, where[:-1])[where[-1]] = value
    write(path, recipe)
    written = find_problems(path)
    expected = None if written else load_recipe(path).recipe
    write(path, RECIPE)
    override = f"{dotted(where)}={json.dumps(value)}"
    told = {(problem.path, problem.message) for problem in find_problems(path, [override])}
    assert told == {(problem.path, problem.message) for problem in written}
    if expected is not None:
        assert load_recipe(path, [override]).recipe == expected


TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text("ab", max_size=2), st.lists(st.integers(), max_size=2)),
    lambda below: st.dictionaries(st.sampled_from("abcd"), below, max_size=3),
    max_leaves=10,
).filter(lambda tree: isinstance(tree, dict))


def node(value: Any) -> Node:
    return read_value(json.dumps(value), Place("x", 1, 1), [])


def meet(a: Any, b: Any) -> bool:
    """Whether two layers say something about the same value."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return True
    return any(meet(a[key], b[key]) for key in a.keys() & b.keys())


@often
@given(base=TREES, one=TREES, two=TREES)
def test_layers_whose_keys_do_not_meet_commute(base: Any, one: Any, two: Any) -> None:
    if meet(one, two):
        return
    # A layer that puts a block where the base has a value, or takes one away, meets everything below.
    if any(_replaces(base, layer) for layer in (one, two)):
        return
    there = overlay(overlay(node(base), node(one)), node(two)).plain()
    back = overlay(overlay(node(base), node(two)), node(one)).plain()
    assert there == back


def _replaces(base: Any, layer: Any) -> bool:
    if not (isinstance(base, dict) and isinstance(layer, dict)):
        return isinstance(base, dict) != isinstance(layer, dict)
    return any(_replaces(base.get(key, layer[key]), layer[key]) for key in layer)


@often
@given(base=TREES)
def test_an_empty_layer_changes_nothing(base: Any) -> None:
    assert overlay(node(base), node({})).plain() == node(base).plain()


FIELDS = sorted({field for section in STAGES.values() for field in section.model_fields} | {*RECIPE, "like", "extends"})
WILD = st.recursive(
    VALUES | st.text(max_size=5),
    lambda below: (
        st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), below, max_size=4) | st.lists(below, max_size=3)
    ),
    max_leaves=12,
)


@often
@given(value=WILD, where=st.sampled_from([(), *keys(RECIPE), *leaves(RECIPE)]))
def test_any_value_anywhere_gives_lines_and_no_traceback(path: Path, value: Any, where: tuple) -> None:
    recipe: Any = copy.deepcopy(RECIPE)
    if where:
        at(recipe, where[:-1])[where[-1]] = value
    else:
        recipe = value
    write(path, recipe)
    lines = path.read_text().count("\n") + 1
    for problem in find_problems(path):
        assert problem.message and "\n" not in problem.message
        assert 1 <= problem.line <= lines and problem.column >= 1
        assert "does not fit" not in problem.message or "give" in problem.message, problem


@often
@given(
    cut=st.tuples(st.integers(0, 3000), st.integers(0, 40)),
    text=st.text(st.sampled_from("\n\t :-{}[]*&!|>'\"%@`#,abc0.~\u2028\x85\0é"), max_size=8),
)
def test_any_edit_of_the_text_gives_lines_and_no_traceback(path: Path, cut: tuple[int, int], text: str) -> None:
    written = (Path(__file__).parents[2] / "recipes" / "demo.yaml").read_text()
    start, length = cut
    path.write_bytes((written[:start] + text + written[start + length :]).encode())
    for problem in find_problems(path):
        assert problem.message and "\n" not in problem.message


@often
@given(data=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_give_lines_and_no_traceback(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert find_problems(path)


@often
@given(override=st.text(st.sampled_from("ab.[]=0 {}':,*&!\n\0-x") | st.characters(), max_size=12))
def test_any_override_gives_lines_and_no_traceback(override: str) -> None:
    demo = Path(__file__).parents[2] / "recipes" / "demo.yaml"
    for problem in find_problems(demo, [override]):
        assert problem.message and "\n" not in str(problem)


@often
@given(where=st.sampled_from(leaves(RECIPE)), value=VALUES)
def test_what_show_prints_means_the_same(path: Path, where: tuple, value: Any) -> None:
    recipe = copy.deepcopy(RECIPE)
    at(recipe, where[:-1])[where[-1]] = value
    if find_problems(write(path, recipe)):
        return
    loaded = load_recipe(path)
    path.write_text(show_recipe(loaded))
    assert load_recipe(path).recipe == loaded.recipe
