"""What silently ruined other people's PPO runs, each pinned down."""

import pytest
import torch
from tiny_ppo import PAD, STOP, VOCAB, decoder, trainer
from training_jobs import END, random_row

from custom_models import DecoderForSequenceClassification
from pipelines.training.rollouts import Rollout, with_advantages
from pipelines.training.scoring import RewardModel, reward_ids


def judge(seed: int = 2) -> DecoderForSequenceClassification:
    torch.manual_seed(seed)
    config = decoder().config
    config.num_labels = 1
    return DecoderForSequenceClassification(config).eval()


def test_the_reward_is_read_at_the_last_token_also_when_padding_equals_the_end_token() -> None:
    """And when the end token stands inside the prompt: the place comes from the lengths, not from an id."""
    model = judge()
    prompts, completions = [[5, STOP, 6], [7], [8, STOP, 9, 10, 11]], [[12, STOP], [13, 14, 15], [STOP]]
    for pad_id in (STOP, PAD):
        scores = RewardModel(model, pad_id)(prompts, completions, [{}] * 3)
        for prompt, completion, score in zip(prompts, completions, scores, strict=True):
            ids = torch.tensor([prompt + completion])
            alone = model(ids, attention_mask=torch.ones_like(ids)).logits.item()
            assert score == pytest.approx(alone, abs=1e-6)


def test_the_reward_model_reads_what_it_was_trained_on() -> None:
    """Training reads prompt + chosen, its end-of-turn token included; PPO's completion keeps its own."""
    import numpy as np

    row = random_row("preference", np.random.default_rng(0))
    assert reward_ids(row["prompt_ids"], row["chosen_ids"]) == [*row["prompt_ids"], *row["chosen_ids"]]
    assert row["chosen_ids"][-1] == END


def test_completions_reach_the_reward_with_their_end_token(tmp_path) -> None:
    seen: list[list[int]] = []

    def reward(prompts, completions, columns):
        seen.extend(completions)
        return [0.0] * len(completions)

    rollout = trainer(tmp_path, reward=reward, max_completion_length=24).roll_out(0)
    assert rollout.ended.any() and not rollout.ended.all()
    for row, ended, mask in zip(seen, rollout.ended.tolist(), rollout.is_token, strict=True):
        assert (row[-1] == STOP) is ended and STOP not in row[:-1] and len(row) == int(mask.sum())


def five_tokens(ended: bool) -> Rollout:
    """One row of five tokens, and behind it one of three with padding; no divergence, no values."""
    is_token = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    zero = torch.zeros(2, 5)
    return Rollout(
        ids=torch.full((2, 8), 9),
        prompt_lengths=torch.tensor([3, 3]),
        is_token=is_token,
        ended=torch.tensor([ended, True]),
        logps=zero,
        reference_logps=zero,
        values=zero,
        scores=torch.tensor([1.0, -1.0]),
    )


def test_the_score_lands_on_the_last_generated_token_and_never_on_padding() -> None:
    """gamma 1, lambda 0: an advantage is that token's own reward; before whitening 1 at one place, -1 at another."""
    made = with_advantages(
        five_tokens(True), kl_coef=0.1, missing_eos_penalty=0.0, whiten_rewards=False, gamma=1.0, lam=0.0
    )
    assert made.returns.tolist() == [[0, 0, 0, 0, 1], [0, 0, -1, 0, 0]]
    white = 1 / (2 / 8) ** 0.5  # eight tokens, mean 0, variance 2/8
    torch.testing.assert_close(made.advantages[:, [4, 2]].diagonal(), torch.tensor([white, -white]))


def test_a_completion_without_an_end_pays_the_penalty() -> None:
    made = with_advantages(
        five_tokens(False), kl_coef=0.1, missing_eos_penalty=2.5, whiten_rewards=False, gamma=1.0, lam=0.0
    )
    assert made.returns.tolist() == [[0, 0, 0, 0, -1.5], [0, 0, -1, 0, 0]]


def test_the_divergence_from_a_copy_is_exactly_zero_and_never_below(tmp_path) -> None:
    for temperature in (1.0, 0.7):
        rollout = trainer(tmp_path / str(temperature), temperature=temperature).roll_out(0)
        assert torch.equal(rollout.logps, rollout.reference_logps)
        assert rollout.metrics()["kl"] == 0.0


def test_the_drawn_distribution_is_the_scored_one(tmp_path) -> None:
    """Log-probabilities at the sampling temperature: their mean is minus the entropy of what is drawn from."""
    made = trainer(tmp_path, temperature=0.5, rollout_batch_size=96, max_completion_length=1, global_batch=8)
    torch.nn.init.normal_(made.model.policy.lm_head.weight, std=0.15, generator=torch.Generator().manual_seed(1))
    rollout = made.roll_out(0)
    entropies = []
    for row, length in enumerate(rollout.prompt_lengths.tolist()):
        with torch.no_grad():
            logits = made.model.policy(rollout.ids[row : row + 1, :length]).logits[0, -1] / 0.5
        entropies.append(float(torch.distributions.Categorical(logits=logits).entropy()))
    spread = float(rollout.logps[:, 0].std()) / 96**0.5
    assert -float(rollout.logps.mean()) == pytest.approx(sum(entropies) / len(entropies), abs=4 * spread)


def test_the_first_update_sees_the_policy_that_drew_although_it_has_dropout(tmp_path) -> None:
    made = trainer(tmp_path, model=decoder(dropout=0.5, attention_dropout=0.5), rollouts=1, learning_rate=1e-9)
    ratios, inner = [], made.compute_loss

    def noted(model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, seen = inner(model, inputs, return_outputs=True)
        ratios.append(seen["log_ratio"].abs().max().item())
        return loss

    made.compute_loss = noted
    made.train()
    assert ratios[0] < 1e-5


def test_scores_do_not_depend_on_padding_and_batch(tmp_path) -> None:
    """Log-probabilities and values of the same completions, in one batch, alone, and with more padding."""
    made = trainer(tmp_path, max_completion_length=12)
    torch.nn.init.normal_(made.model.value_head.weight, generator=torch.Generator().manual_seed(1))
    rollout, model = made.roll_out(0), made.model.eval()
    with torch.no_grad():
        for row in range(16):
            one = rollout.rows([row])
            wide = torch.nn.functional.pad(one.ids, (0, 7), value=VOCAB - 1)
            for ids in (one.ids, wide):
                logps, values = model(ids, one.prompt_lengths, one.is_token)
                torch.testing.assert_close(logps, rollout.logps[row][one.is_token[0]], atol=1e-6, rtol=1e-6)
                torch.testing.assert_close(values, rollout.values[row][one.is_token[0]], atol=1e-6, rtol=1e-6)
