"""Reward functions as recipes name them, and what turns ids into their arguments."""

import pytest
import torch
from tiny_ppo import PAD, decoder
from training_jobs import EOS, tokenizer_folder

from custom_models import DecoderForSequenceClassification
from pipelines.data import microworld
from pipelines.errors import DataError
from pipelines.recipe.evaluation import REWARD_FUNCTIONS
from pipelines.rewards import REWARDS, village_story
from pipelines.training.inputs import tokens_of
from pipelines.training.scoring import RewardFunction, RewardModel, require_same_tokenizer, reward_ids


def test_recipes_know_exactly_the_functions_that_there_are() -> None:
    assert tuple(REWARDS) == REWARD_FUNCTIONS


def test_village_story_is_the_worlds_own_check_row_by_row() -> None:
    pair = microworld.preference("train", 0, 0)
    columns = {name: [pair[name]] * 2 for name in ("person", "object", "length")}
    assert village_story(["a", "b"], [pair["chosen"], "nonsense"], **columns, other=[1, 2]) == [1.0, 0.0]


def test_a_function_sees_texts_columns_and_ids(tmp_path) -> None:
    tokenizer, seen = tokens_of(tokenizer_folder(tmp_path)).tokenizer, {}

    def reward(prompts, completions, completion_ids, answer, **columns):
        seen.update(prompts=prompts, completions=completions, ids=completion_ids, answer=answer, more=columns)
        return [1, 2.5]

    columns = [{"answer": 4, "x": 1}, {"answer": 5}]
    scores = RewardFunction(reward, tokenizer)([[10, 11], [12]], [[20, EOS], [21, 22]], columns)
    assert scores == [1.0, 2.5]
    assert seen == {
        "prompts": ["w10 w11", "w12"],
        "completions": ["w20", "w21 w22"],
        "ids": [[20, EOS], [21, 22]],
        "answer": [4, 5],
        "more": {"x": [1, None]},
    }


def test_a_missing_column_and_a_missing_score_are_told_in_one_line(tmp_path) -> None:
    tokenizer = tokens_of(tokenizer_folder(tmp_path)).tokenizer
    with pytest.raises(DataError, match=r"village_story with columns .*person"):
        RewardFunction(village_story, tokenizer)([[10]], [[20]], [{}])
    with pytest.raises(DataError, match="gave 0 scores for 1 completions"):
        RewardFunction(lambda prompts, completions, **columns: [], tokenizer)([[10]], [[20]], [{}])


def test_scores_of_a_reward_model_are_its_own_and_depend_on_no_padding_or_batch() -> None:
    torch.manual_seed(2)
    model = DecoderForSequenceClassification(decoder().config).eval()
    model.config.num_labels, model.score = 1, torch.nn.Linear(32, 1)
    prompts = [[5] * n for n in (1, 2, 3, 4, 5, 6, 7)]
    completions = [[9, 8, 7][: 1 + n % 3] for n in range(7)]
    columns = [{}] * 7
    reward = RewardModel(model, PAD)
    together = reward(prompts, completions, columns)
    for row, score in enumerate(together):
        ids = torch.tensor([reward_ids(prompts[row], completions[row])])
        assert float(model(ids, attention_mask=torch.ones_like(ids)).logits) == pytest.approx(score, abs=1e-6)
        for batch in (1, 2, 4):
            some = slice(row, row + batch)
            assert reward(prompts[some], completions[some], columns[some])[0] == pytest.approx(score, abs=1e-6)


def test_a_reward_model_with_another_tokenizer_is_refused(tmp_path) -> None:
    for name in ("policy", "reward"):
        tokenizer_folder(tmp_path / name)
    require_same_tokenizer(tmp_path / "policy", tmp_path / "reward")
    path = tmp_path / "reward" / "tokenizer.json"
    path.write_text(path.read_text().replace("w17", "x17"))
    with pytest.raises(DataError, match="another tokenizer"):
        require_same_tokenizer(tmp_path / "policy", tmp_path / "reward")
