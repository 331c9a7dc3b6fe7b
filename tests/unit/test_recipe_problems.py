"""Bad recipes, and the exact lines that a person gets for them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.errors import RecipeError
from pipelines.recipe.load import find_problems, load_recipe

GOOD = """\
name: tiny
seed: 7
data:
  village: {builtin: microworld/text}
  chats: {builtin: microworld/chat}
  preferences: {builtin: microworld/preferences}
  prompts: {builtin: microworld/prompts}
model:
  architecture: decoder
  style: llama
  hidden_size: 64
  num_hidden_layers: 4
  num_attention_heads: 4
  max_position_embeddings: 256
stages:
  tokenizer: {vocab_size: 512, data: {village: 0.7, chats: 0.3}}
  pretrain:
    data: village
    max_length: 128
    duration: 900 steps
    global_batch_size: 16
    learning_rate: 1e-3
  sft: {model: pretrain, data: chats, duration: 2 epochs, global_batch_size: 8, learning_rate: 1e-3}
  reward: {model: sft, data: preferences, duration: 1 epochs, global_batch_size: 8, learning_rate: 1e-4}
  dpo: {model: sft, data: preferences, duration: 1 epochs, global_batch_size: 8, learning_rate: 1e-4}
  gentle: {like: dpo, beta: 0.3}
  ppo:
    model: sft
    data: prompts
    reward_funcs: village_story
    duration: 25 rollouts
    rollout_batch_size: 64
    global_batch_size: 16
    max_completion_length: 64
    learning_rate: 2e-4
  evaluate:
    models: [pretrain, sft, dpo, ppo]
    tasks:
      - {name: bits_per_byte, data: village, limit: 200}
      - blimp
      - {name: reward, data: prompts, reward_funcs: reward}
launch: cpu
"""


# What other tools let through: the validator's own words, regular expressions, Python's types.
JARGON = re.compile(r"Input should|pydantic|validat|type=|<class|None|Traceback|does not fit:|\[key\]|\^\[")


def bad_recipes() -> Iterator[tuple[str, str, list[str]]]:
    """(what to replace in GOOD, by what, the expected lines)"""
    text = (Path(__file__).parent / "bad_recipes.txt").read_text().split("\n\n", 1)[1]
    for block in re.findall(r"(?:^- .*\n)+(?:^\+ .*\n)+(?:^= .*\n)+", text, re.MULTILINE):
        lines = block.strip("\n").split("\n")
        old, new, told = ([line[2:] for line in lines if line[0] == mark] for mark in "-+=")
        yield "\n".join(old), "\n".join(new), told


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def problems_of(text: str) -> list[str]:
    path = Path("bad.yaml")
    path.write_text(text)
    return [str(problem).removeprefix("bad.yaml:") for problem in find_problems(path)]


def test_the_recipe_that_the_mistakes_are_made_in_is_good() -> None:
    assert problems_of(GOOD) == []


@pytest.mark.parametrize(("old", "new", "expected"), list(bad_recipes()))
def test_a_mistake_is_told_where_it_is_and_how_to_right_it(old: str, new: str, expected: list[str]) -> None:
    assert old in GOOD
    found = problems_of(GOOD.replace(old, new, 1))
    patterns = [".*".join(map(re.escape, line.split("…"))) for line in expected]
    assert len(found) == len(patterns), found
    for line, pattern in zip(found, patterns, strict=True):
        assert re.fullmatch(pattern, line), line
        assert not JARGON.search(line), line


def test_all_mistakes_come_together_structural_and_semantic() -> None:
    text = GOOD
    for old, new in (
        ("seed: 7", "sede: 7"),
        ("hidden_size: 64", "hidden_size: abc"),
        ("sft: {model: pretrain", "sft: {model: reward, bata: 1"),
        ("reward_funcs: village_story", "reward_funcs: dpo"),
        ("gentle: {like: dpo", "gentle: {like: dpoo"),
        ("- blimp", "- {name: blimp, limt: 2}"),
        ("data: prompts, reward_funcs", "data: prompt, reward_funcs"),
        ("launch: cpu", "launch: {config: nowhere, micro_batch_size: 0}"),
        (
            "  chats: {builtin: microworld/chat}",
            "  chats: {builtin: microworld/chat, holdout: 2}\n  own: {files: none.txt}",
        ),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    lines = [line.split(": ")[1] for line in problems_of(text)]
    assert lines == [
        "sede",
        "data.chats.holdout",
        "data.own.files",
        "model.hidden_size",
        "stages.sft.model",
        "stages.sft.bata",
        "stages.gentle.like",
        "stages.ppo.reward_funcs",
        "stages.evaluate.tasks[1].limt",
        "stages.evaluate.tasks[2].data",
        "launch.config",
        "launch.micro_batch_size",
    ]


def test_the_error_counts_and_says_that_nothing_ran() -> None:
    path = Path("bad.yaml")
    path.write_text(GOOD.replace("seed: 7", "sead: 7").replace("style: llama", "style: lama"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).splitlines()[-1] == "2 problems; nothing was run."
    assert caught.value.exit_code == 2


def test_a_mistake_in_a_stage_that_others_copy_is_told_once() -> None:
    assert problems_of(GOOD.replace("dpo: {model: sft,", "dpo: {model: sfx, bete: 0.1,")) == [
        "25:16: stages.dpo.model: there is no stage 'sfx'; did you mean 'sft'?",
        "25:21: stages.dpo.bete: unknown field; did you mean 'beta'?",
    ]
    without = GOOD.replace("dpo: {model: sft, data: preferences,", "dpo: {model: sft,")
    assert [line.split(": ")[1] for line in problems_of(without)] == ["stages.dpo.data"]


def test_a_reward_model_with_another_tokenizer_is_refused() -> None:
    text = GOOD.replace("  tokenizer: {", "  other: {kind: tokenizer, vocab_size: 300, data: village}\n  tokenizer: {")
    text = text.replace("    data: village\n", "    data: village\n    tokenizer: tokenizer\n", 1)
    text = text.replace(
        "  gentle: {like: dpo, beta: 0.3}",
        "  pretrain2: {like: pretrain, tokenizer: other}\n  sft2: {like: sft, model: pretrain2}\n"
        "  judge: {like: reward, model: sft2}",
    )
    assert problems_of(text) == []
    ours = text.replace("reward_funcs: village_story", "reward_funcs: judge")
    assert problems_of(ours) == [
        "34:19: stages.ppo.reward_funcs: reward model 'judge' reads tokenizer 'other', but 'sft' writes 'tokenizer'"
    ]


def test_going_on_with_a_model_under_another_tokenizer_is_refused() -> None:
    text = GOOD.replace("  tokenizer: {", "  other: {kind: tokenizer, vocab_size: 300, data: village}\n  tokenizer: {")
    text = text.replace("    data: village\n", "    data: village\n    tokenizer: tokenizer\n", 1)
    text = text.replace("gentle: {like: dpo, beta: 0.3}", "more: {like: pretrain, model: pretrain, tokenizer: other}")
    assert problems_of(text) == [
        "28:54: stages.more.tokenizer: the model of stage 'pretrain' has learnt the ids of 'tokenizer', not of 'other'"
    ]


def test_a_chapter_that_is_no_chapter_is_one_fault() -> None:
    chapter = re.compile(r"data:\n(  .*\n)+")
    assert problems_of(chapter.sub("data: 3\n", GOOD)) == ["3:7: data: needs a mapping of names, got 3"]
    assert problems_of(chapter.sub("", GOOD)) == ["1:1: data: is missing (chapter 1: named datasets)"]


def test_an_adapter_goes_on_with_its_own_settings_only() -> None:
    text = GOOD.replace(
        "sft: {model: pretrain,", "sft: {peft: {r: 8, target_modules: [v_proj, q_proj]}, model: pretrain,"
    )
    same = text.replace("dpo: {model: sft,", "dpo: {peft: {r: 8, target_modules: [q_proj, v_proj]}, model: sft,")
    assert problems_of(text) == [] == problems_of(same)
    other = text.replace("reward: {model: sft,", "reward: {peft: {r: 4, target_modules: q_proj}, model: sft,")
    assert problems_of(other) == [
        "24:18: stages.reward.peft: goes on from the adapter of stage 'sft', which has other settings (r: 8 -> 4, "
        "target_modules: v_proj, q_proj -> q_proj); give both the same, or leave peft out here to merge it and train "
        "all weights"
    ]
