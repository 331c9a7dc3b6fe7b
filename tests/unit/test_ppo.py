"""The PPO trainer and its stage on toys: the objective by hand, order, resuming, rewards that rise."""

import json
import math
import shutil

import pytest
import torch
from tiny_ppo import VOCAB, context, count_fours, decoder, prompt_tokens, trainer
from training_jobs import run, tokenizer_folder, weights_digest
from transformers import AutoModelForCausalLM

from pipelines.errors import DataError, Diverged
from pipelines.rewards import REWARDS
from pipelines.stages.base import LaunchSettings
from pipelines.training.ppo import ActorCritic, without_dropout
from pipelines.training.sentinel import read_metrics


def weights(some) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in some.model.state_dict().items()}


def furthest(one, other) -> float:
    one, other = weights(one), weights(other)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_the_policy_learns_what_is_rewarded(tmp_path) -> None:
    made = trainer(tmp_path, rollouts=12, learning_rate=1e-2, checkpoint_every=1000)
    made.train()
    rewards = [line["reward"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert sum(rewards[:8]) / 8 < 0.35 and sum(rewards[-8:]) / 8 > 0.6


def test_the_objective_of_a_five_token_example_is_the_one_worked_out_by_hand(tmp_path) -> None:
    """One completion of five tokens, scored 1: everything the trainer computes, from log-probabilities to the loss."""
    made = trainer(tmp_path, rollout_batch_size=1, global_batch=1, micro=1, num_ppo_epochs=1, max_completion_length=5,
                   kl_coef=0.1, lam=0.5, gamma=0.9, reward=lambda p, c, columns: [1.0] * len(c))  # fmt: skip
    torch.nn.init.normal_(made.model.value_head.weight, generator=torch.Generator().manual_seed(1))
    torch.nn.init.normal_(made.reference.lm_head.weight, std=0.05, generator=torch.Generator().manual_seed(2))
    number = next(number for number in range(50) if int(made.roll_out(number).is_token.sum()) == 5)
    part = made.roll_out(number)
    tokens = part.ids[0, : int(part.lengths)]
    policy, start = made.model.policy.eval(), int(part.prompt_lengths)
    with torch.no_grad():
        places = range(start, start + 5)
        logps, frozen = (
            [float(model(tokens[None]).logits[0, t - 1].log_softmax(-1)[tokens[t]]) for t in places]
            for model in (policy, made.reference)
        )
        hidden = policy.model(tokens[None]).last_hidden_state[0]
        values = [float(made.model.value_head(hidden[t - 1])) for t in places]
    rewards = [-0.1 * (a - b) for a, b in zip(logps, frozen, strict=True)]
    rewards[4] += 1.0
    advantages, following = [0.0] * 5, 0.0
    for t in reversed(range(5)):
        delta = rewards[t] + 0.9 * (values[t + 1] if t < 4 else 0.0) - values[t]
        advantages[t] = following = delta + 0.9 * 0.5 * following
    mean = sum(advantages) / 5
    spread = math.sqrt(sum((a - mean) ** 2 for a in advantages) / 5)
    torch.testing.assert_close(
        part.advantages[0].tolist(), [(a - mean) / spread for a in advantages], atol=1e-4, rtol=0
    )
    # at ratio 1 the policy's part is minus the mean advantage, which is 0; the critic's half the mean squared advantage
    loss = made.compute_loss(made.model, {"part": part, "tokens": torch.tensor(5)})
    assert loss.item() == pytest.approx(0.1 * 0.5 * sum(a * a for a in advantages) / 5, abs=1e-5)


def test_micro_batches_make_no_difference(tmp_path) -> None:
    whole, split = trainer(tmp_path / "a", micro=8, rollouts=1), trainer(tmp_path / "b", micro=2, rollouts=1)
    whole.train()
    split.train()
    assert furthest(whole, split) < 1e-5
    losses = [[line["loss"] for line in read_metrics(tmp_path / run / "metrics.jsonl")] for run in "ab"]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and len(losses[0]) == 4


def test_each_pass_takes_every_completion_once_in_another_order(tmp_path) -> None:
    made = trainer(tmp_path)
    halves = [made.places(1, step).reshape(-1).tolist() for step in range(4)]
    passes = [halves[0] + halves[1], halves[2] + halves[3]]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(16)) and passes[0] != passes[1]
    assert made.rows_of_step(5).shape == (1, 1, 8)


def test_a_run_resumed_at_a_rollouts_end_ends_with_the_same_bits(tmp_path) -> None:
    whole = trainer(tmp_path / "whole", rollouts=3)
    whole.train()
    again = tmp_path / "again"
    trainer(again, rollouts=3).train()
    assert sorted(path.name for path in (again / "checkpoints").iterdir()) == ["checkpoint-12", "checkpoint-8"]
    shutil.rmtree(again / "checkpoints" / "checkpoint-12")
    resumed = trainer(again, rollouts=3)
    resumed.train()
    assert furthest(whole, resumed) == 0
    assert [line["step"] for line in read_metrics(again / "metrics.jsonl")] == list(range(1, 13))


def test_a_score_that_is_no_number_stops_the_run_and_names_the_prompt(tmp_path) -> None:
    def reward(prompts, completions, columns):
        return [math.nan if row["number"] == 13 else 0.5 for row in columns]

    made = trainer(tmp_path, rollouts=2, reward=reward)
    before = weights(made)
    with pytest.raises(Diverged, match=r"step [15]: the reward of prompts 13 is not a finite number"):
        made.train()
    if 13 in made.prompts_of(0).tolist():
        assert all(torch.equal(before[name], now) for name, now in weights(made).items())


def test_a_held_out_score_that_is_no_number_stops_the_stage_before_its_first_step(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(REWARDS, "village_story", lambda prompts, completions, **columns: [math.nan] * len(prompts))
    ctx = context(tmp_path, reward_funcs="village_story")
    with pytest.raises(Diverged, match=r"holdout: the reward of prompts 0, 1, 2, .* is not a finite number"):
        run(ctx)
    assert not read_metrics(ctx.record / "metrics.jsonl")


def test_a_rollout_without_any_reward_is_no_error(tmp_path) -> None:
    made = trainer(tmp_path, rollouts=1, reward=lambda prompts, completions, columns: [0.0] * len(completions))
    made.train()
    assert made.state.global_step == 4


def test_dropout_is_off_in_training_and_on_again_afterwards(tmp_path) -> None:
    made = trainer(tmp_path, model=decoder(dropout=0.3, attention_dropout=0.2), rollouts=1)
    seen = []
    made.reward = lambda p, c, columns: seen.append(made.model.config.dropout) or count_fours(p, c, columns)
    made.train()
    assert set(seen) == {0.0} and made.model.config.dropout == 0.3
    assert made.model.policy.model.layers[0].self_attn.attention_dropout == 0.2


def test_dropout_comes_back_after_an_error() -> None:
    model = decoder(dropout=0.3)
    with pytest.raises(KeyError), without_dropout(model):
        assert model.model.layers[0].dropout == 0
        raise KeyError
    assert model.model.layers[0].dropout == 0.3


def test_logits_are_computed_for_completions_only(tmp_path) -> None:
    model, seen = ActorCritic(decoder(), temperature=1.0), []
    model.policy.lm_head.register_forward_hook(lambda module, given, out: seen.append(out.shape))
    ids = torch.randint(3, VOCAB, (2, 12))
    is_token = torch.tensor([[True, True, True, False], [True, False, False, False]])
    logps, values = model(ids, torch.tensor([6, 8]), is_token)
    assert seen == [(4, VOCAB)] and logps.shape == values.shape == (4,)


# --- the stage --------------------------------------------------------------------------------------------------------


def test_the_stage_leaves_a_plain_policy_and_says_what_the_reward_did(tmp_path, capfd) -> None:
    ctx = context(tmp_path)
    metrics = run(ctx)
    assert "note:" not in capfd.readouterr().out
    for name in ("holdout_reward", "holdout_reward_before", "holdout_reward_stderr", "first_reward", "last_kl"):
        assert math.isfinite(metrics[name])
    assert metrics["holdout_rows"] == 8 and metrics["steps"] == 12 and metrics["rows_used"] == 24
    assert metrics["first_kl"] == pytest.approx(0, abs=1e-6) and metrics["last_reward"] != metrics["first_reward"]
    model = AutoModelForCausalLM.from_pretrained(ctx.output)
    assert not [name for name, _ in model.named_parameters() if "value" in name] and model.config.dropout == 0.1
    line = read_metrics(ctx.record / "metrics.jsonl")[0]
    wanted = {"reward", "reward_stderr", "kl", "entropy", "policy_loss", "value_loss", "clip_fraction", "ended"}
    assert wanted | {"completion_length", "loss", "learning_rate", "grad_norm", "tokens_per_second"} <= set(line)


def test_activation_checkpointing_changes_nothing(tmp_path) -> None:
    digests = []
    for name in ("kept", "again"):
        (tmp_path / name).mkdir()
        launch = LaunchSettings(threads=1, activation_checkpointing=name == "again")
        ctx = context(tmp_path / name, launch=launch, duration="1 rollouts")
        run(ctx)
        digests.append(weights_digest(ctx))
    assert digests[0] == digests[1]


def test_bf16_draws_what_it_scores(tmp_path) -> None:
    """Sampling and scoring both run under autocast; the cached and the whole pass round differently, no more."""
    ctx = context(tmp_path, duration="1 rollouts", mixed_precision="bf16", learning_rate=1e-4)
    run(ctx)
    line = read_metrics(ctx.record / "metrics.jsonl")[0]
    assert line["kl"] == 0 and line["clip_fraction"] == 0


def test_a_reward_that_is_never_earned_is_said(tmp_path, capfd) -> None:
    metrics = run(context(tmp_path, reward_funcs="village_story", duration="1 rollouts"))
    assert metrics["holdout_reward"] == 0.0  # random words are no story
    assert "note: every completion was rewarded 0, so there was nothing to learn" in capfd.readouterr().out


def test_the_same_stage_twice_gives_the_same_bytes(tmp_path) -> None:
    ctx = context(tmp_path, duration="1 rollouts")
    run(ctx)
    first = weights_digest(ctx)
    shutil.rmtree(ctx.workdir)
    again = context(tmp_path, duration="1 rollouts")
    run(again)
    assert weights_digest(again) == first


def test_a_reward_model_of_another_tokenizer_is_refused(tmp_path) -> None:
    ctx = context(tmp_path)
    path = tokenizer_folder(tmp_path / "other") / "tokenizer.json"
    (ctx.inputs["reward_model"] / "tokenizer.json").write_text(path.read_text().replace("w17", "x17"))
    with pytest.raises(DataError, match="another tokenizer"):
        run(ctx)


def test_prompts_that_leave_no_room_are_counted_and_dropped(tmp_path) -> None:
    prompt_tokens(tmp_path / "prompts", longest=20)
    lengths = json.loads((tmp_path / "prompts" / "meta.json").read_text())
    with pytest.raises(DataError, match=r"prompts: \d+ of 24 prompts are longer than 8 tokens"):
        run(context(tmp_path, max_length=16))
    shutil.rmtree(tmp_path / "job")
    metrics = run(context(tmp_path, max_length=16, max_dropped=0.9, duration="1 rollouts"))
    assert metrics["rows_in"] == metrics["rows_used"] + metrics["dropped_overlong"] == 24
    assert 0 < metrics["rows_used"] < 24 and lengths["format"] == "prompt"


def test_no_room_for_any_prompt_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="leaves no room"):
        run(context(tmp_path, max_length=8))
