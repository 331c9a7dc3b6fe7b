"""Layers: a parent, `--set`, stages like others, and where each value came from."""

from pathlib import Path

import pytest

from pipelines.errors import RecipeError
from pipelines.recipe.load import LoadedRecipe, find_problems, load_recipe
from pipelines.recipe.show import show_json, show_recipe

BASE = """\
name: base
seed: 7
data:
  village: {builtin: microworld/text}
  chats: {builtin: microworld/chat, holdout: 0}
model: {hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, max_position_embeddings: 256}
stages:
  tokenizer: {vocab_size: 512, data: village}
  pretrain: {data: village, duration: 900 steps, global_batch_size: 16, learning_rate: 1e-3, warmup_steps: 5}
  sft: {model: pretrain, data: chats, duration: 2 epochs, global_batch_size: 8, learning_rate: 1e-3}
  evaluate: {models: [pretrain, sft], tasks: [{name: bits_per_byte, data: village, limit: 9}, blimp]}
  again: {like: evaluate, models: sft}
launch: cpu
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("base.yaml")
    path.write_text(BASE)
    return path


def child(text: str, name: str = "child.yaml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def problems(path: Path, *overrides: str) -> list[str]:
    return [str(problem) for problem in find_problems(path, overrides)]


# --- extends ------------------------------------------------------------------------------------------------------


def test_mappings_merge_lists_are_replaced_and_null_removes(base: Path) -> None:
    path = child(
        "extends: base.yaml\nname: mine\nseed: 0\nmodel: {hidden_size: 32}\n"
        "stages:\n  again: null\n  pretrain: {warmup_steps: null}\n  evaluate: {models: [sft]}\n"
    )
    recipe = load_recipe(path).recipe
    parent = load_recipe(base).recipe
    assert (recipe.name, recipe.seed, recipe.model.hidden_size, recipe.model.num_hidden_layers) == ("mine", 0, 32, 2)
    assert "again" not in recipe.stages
    assert recipe.stages["evaluate"].models == ("sft",)
    assert recipe.stages["pretrain"].warmup_steps == 0
    assert recipe.stages["sft"] == parent.stages["sft"]


def test_places_point_into_the_file_that_says_so(base: Path) -> None:
    path = child("extends: base.yaml\nname: mine\nstages:\n  sft: {learning_rate: 1}\n")
    loaded = load_recipe(path)
    assert loaded.origin(("stages", "sft", "learning_rate")) == "child.yaml:4"
    assert loaded.origin(("stages", "sft", "model")) == "base.yaml:10"
    assert loaded.place(("stages", "sft", "model")) == ("base.yaml", 10, 16)
    base.write_text(BASE.replace("hidden_size: 64", "hidden_size: big"))
    assert problems(path) == ["base.yaml:6:22: model.hidden_size: needs a whole number, got 'big'"]


def test_one_parent_is_the_limit(base: Path) -> None:
    child("extends: base.yaml\nname: middle\n", "middle.yaml")
    assert problems(child("extends: middle.yaml\nname: x\n")) == [
        "child.yaml:1:10: extends: middle.yaml extends another recipe itself; one level is the limit"
    ]
    assert "one level is the limit" in problems(child("extends: child.yaml\nname: x\n"))[0]


def test_a_parent_is_looked_for_beside_the_child(base: Path) -> None:
    Path("deep").mkdir()
    path = child("extends: ../base.yaml\nname: deep\n", "deep/child.yaml")
    loaded = load_recipe(path)
    assert loaded.recipe.stages == load_recipe(base).recipe.stages
    assert loaded.origin(("seed",)) == "base.yaml:2"


# --- like ---------------------------------------------------------------------------------------------------------


def with_stages(*stages: str) -> str:
    return BASE.replace("  again:", "".join(f"  {stage}\n" for stage in stages) + "  again:")


def test_like_copies_kind_and_fields_and_own_fields_lie_over_them(base: Path) -> None:
    base.write_text(with_stages("third: {like: second, seed: 3}", "second: {like: sft, learning_rate: 2}"))
    loaded = load_recipe(base)
    third, sft = loaded.recipe.stages["third"], loaded.recipe.stages["sft"]
    assert third == sft.model_copy(update={"learning_rate": 2.0, "seed": 3})
    assert loaded.origin(("stages", "third", "learning_rate")) == "like second at base.yaml:13"
    assert loaded.origin(("stages", "third", "model")) == "like second at base.yaml:10"
    assert loaded.origin(("stages", "third", "seed")) == "base.yaml:12"


def test_a_value_of_the_copy_is_replaced_whole(base: Path) -> None:
    text = with_stages("more: {like: pretrain, data: {village: 1}}")
    text = text.replace("pretrain: {data: village", "pretrain: {data: {village: 0.5, letters: 0.5}")
    base.write_text(text.replace("  village: {", "  letters: {builtin: microworld/text}\n  village: {"))
    stages = load_recipe(base).recipe.stages
    assert (len(stages["pretrain"].data), stages["more"].data) == (2, {"village": 1.0})


def test_a_stage_may_have_any_name_and_say_its_kind(base: Path) -> None:
    text = BASE.replace("  sft: {", "  tuned: {kind: sft, ").replace("sft]", "tuned]")
    base.write_text(text.replace("models: sft", "models: tuned"))
    assert load_recipe(base).recipe.stages["tuned"].kind == "sft"


# --- --set --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=0", ("seed",), 0),
        ("seed=7", ("seed",), 7),
        ("stages.sft.assistant_only_loss=false", ("stages", "sft", "assistant_only_loss"), False),
        ("stages.sft.assistant_only_loss=true", ("stages", "sft", "assistant_only_loss"), True),
        ("stages.pretrain.warmup_steps=0", ("stages", "pretrain", "warmup_steps"), 0),
        ("stages.pretrain.max_grad_norm=0", ("stages", "pretrain", "max_grad_norm"), 0),
        ("stages.pretrain.learning_rate=5E-4", ("stages", "pretrain", "learning_rate"), 5e-4),
        ("stages.pretrain.max_length=null", ("stages", "pretrain", "max_length"), None),
        ("data.chats.holdout=0.01", ("data", "chats", "holdout"), 0.01),
        ("data.chats.holdout=0", ("data", "chats", "holdout"), 0),
        ("model.layer_types=[full_attention]", ("model", "layer_types"), ("full_attention",)),
        ("stages.evaluate.tasks[0].limit=5", ("stages", "evaluate", "tasks", 0, "limit"), 5),
        ("stages.evaluate.tasks[1].limit=5", ("stages", "evaluate", "tasks", 1, "limit"), 5),
        ("stages.again.tasks[0].limit=5", ("stages", "again", "tasks", 0, "limit"), 5),
        ("stages.again.models[0]=pretrain", ("stages", "again", "models", 0), "pretrain"),
        ("launch.micro_batch_size=2", ("launch", "micro_batch_size"), 2),
        ("launch=cpu-2", ("launch", "config"), "cpu-2"),
        ("launch.stages.sft=cpu-2", ("launch", "stages", "sft", "config"), "cpu-2"),
    ],
)
def test_set_wins_and_is_told_as_the_origin(base: Path, override: str, path: tuple, value: object) -> None:
    loaded = load_recipe(base, [override])
    found: object = loaded.recipe
    for key in path:
        found = found[key] if isinstance(found, dict | tuple) else getattr(found, key)  # type: ignore[index, arg-type]
    assert found == value
    assert loaded.origin(path) == "--set"
    assert type(found) is not int or not isinstance(value, bool)


def test_set_in_a_copied_stage_leaves_the_original_alone(base: Path) -> None:
    recipe = load_recipe(base, ["stages.again.tasks[0].limit=5"]).recipe
    assert (recipe.stages["again"].tasks[0].limit, recipe.stages["evaluate"].tasks[0].limit) == (5, 9)


def test_set_of_an_original_reaches_its_copies(base: Path) -> None:
    recipe = load_recipe(base, ["stages.evaluate.apply_chat_template=true"]).recipe
    assert recipe.stages["again"].apply_chat_template


def test_the_last_of_two_settings_wins(base: Path) -> None:
    assert load_recipe(base, ["seed=1", "seed=2"]).recipe.seed == 2


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed", "--set:1:1: 'seed' is not key=value; write for example --set stages.pretrain.learning_rate=1e-3"),
        ("=3", "--set:1:1: '=3' is not key=value; write for example --set stages.pretrain.learning_rate=1e-3"),
        ("a..b=3", "--set:1:1: 'a..b=3' is not key=value; write for example --set stages.pretrain.learning_rate=1e-3"),
        ("sed=3", "--set:1:1: sed: unknown field; did you mean 'seed'?"),
        ("stages.sft.lr=3", "--set:1:1: stages.sft.lr: unknown field; here it is called 'learning_rate'"),
        ("stages.sft.learning_rate=fast", "--set:1:26: stages.sft.learning_rate: needs a number, got 'fast'"),
        ("stages.sft.model=[", "--set:1:18: --set value: a value is missing here, or a { or [ is not closed"),
        (
            "stages.evaluate.tasks[7].limit=3",
            "--set:1:1: stages.evaluate.tasks[7].limit: "
            "stages.evaluate.tasks has 2 items, counted from 0, so there is no [7]",
        ),
        ("seed.x=3", "--set:1:1: seed.x: seed is a single value"),
        (
            "stages.evaluate.tasks.limit=3",
            "--set:1:1: stages.evaluate.tasks.limit: stages.evaluate.tasks is a list; name an item as [0]",
        ),
        ("model.hidden_size[0]=3", "--set:1:1: model.hidden_size[0]: model.hidden_size is not a list"),
        ("extends=other.yaml", "--set:1:1: extends: stands in the recipe's file only"),
        ("name=", "--set:1:6: name: is empty; needs text"),
        ("seed=!!int 3", "--set:1:6: tags (!!int) are not used in recipes; write the value alone"),
        ("stages.sft.model=nowhere", "--set:1:18: stages.sft.model: there is no stage 'nowhere'"),
    ],
)
def test_a_setting_that_is_wrong_is_one_line(base: Path, override: str, line: str) -> None:
    assert problems(base, override) == [line]


def test_the_second_setting_is_counted(base: Path) -> None:
    assert problems(base, "seed=1", "sed=2") == ["--set:2:1: sed: unknown field; did you mean 'seed'?"]


# --- origins and show ---------------------------------------------------------------------------------------------


def test_every_value_knows_its_origin(base: Path) -> None:
    base.write_text(BASE.replace("model: {", "model: {style: gpt2, norm: rms_norm, "))
    loaded = load_recipe(base, ["seed=7"])
    origins = {
        ("seed",): "--set",
        ("name",): "base.yaml:1",
        ("data", "village", "format"): "builtin microworld/text",
        ("data", "village", "limit"): "default",
        ("model", "norm"): "base.yaml:6",
        ("model", "feed_forward"): "style gpt2",
        ("model", "dropout"): "default",
        ("stages", "sft", "kind"): "the stage's name",
        ("stages", "again", "kind"): "like evaluate at base.yaml:11",
        ("stages", "again", "tasks", 1, "name"): "like evaluate at base.yaml:11",
        ("stages", "evaluate", "tasks", 1, "name"): "base.yaml:11",
        ("stages", "evaluate", "tasks", 1, "limit"): "default",
        ("stages", "sft", "data", "chats"): "base.yaml:10",
        ("launch", "config"): "base.yaml:13",
        ("launch", "checkpoint_every"): "default",
    }
    assert {path: loaded.origin(path) for path in origins} == origins


def test_what_show_prints_is_the_same_recipe(base: Path) -> None:
    loaded = load_recipe(base, ["stages.sft.seed=3"])
    shown = child(show_recipe(loaded), "shown.yaml")
    assert load_recipe(shown).recipe == loaded.recipe
    assert any(line.endswith("# --set") and "seed: 3" in line for line in shown.read_text().splitlines())


def test_show_for_machines_names_the_origin_of_every_value(base: Path) -> None:
    shown = show_json(load_recipe(base))
    assert shown["recipe"]["stages"]["evaluate"]["tasks"][1]["name"] == "blimp"
    assert shown["origins"]["stages.evaluate.tasks[1].name"] == "base.yaml:11"
    assert shown["origins"]["stages.sft.duration"] == "base.yaml:10"


def test_a_recipe_that_is_wrong_is_not_loaded(base: Path) -> None:
    base.write_text(BASE.replace("seed: 7", "seed: x"))
    with pytest.raises(RecipeError):
        load_recipe(base)
    base.write_text(BASE)
    assert isinstance(load_recipe(base), LoadedRecipe)


def test_set_below_a_copy_that_cannot_be_made_is_a_line(base: Path) -> None:
    base.write_text(BASE.replace("like: evaluate, models: sft", "like: [evaluate], models: sft"))
    assert "base.yaml:12:17: stages.again.like: needs the name of a stage, got a list" in problems(
        base, "stages.again.tasks[0].limit=3"
    )
