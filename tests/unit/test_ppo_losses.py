"""PPO's arithmetic, against numbers worked out by hand."""

import math

import pytest
import torch

from pipelines.training import ppo_losses

TOKENS = torch.tensor([[True, True, True, True, True], [True, True, True, False, False]])


def test_the_score_lands_on_the_last_token_and_the_penalty_on_every_token() -> None:
    kl = torch.tensor([[0.1, 0.2, -0.3, 0.4, 0.5], [1.0, 1.0, 1.0, 9.0, 9.0]])
    rewards = ppo_losses.token_rewards(kl, torch.tensor([2.0, -1.0]), TOKENS, kl_coef=0.1)
    wanted = torch.tensor([[-0.01, -0.02, 0.03, -0.04, 1.95], [-0.1, -0.1, -1.1, 0.0, 0.0]])
    torch.testing.assert_close(rewards, wanted)


def test_advantages_of_five_tokens_are_those_worked_out_by_hand() -> None:
    """gamma 0.5, lambda 0.5: delta_t = r_t + 0.5 V_t+1 - V_t, and each advantage adds a quarter of the next."""
    rewards = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 2.0, 0.0, 0.0]])
    values = torch.tensor([[0.2, 0.4, 0.6, 0.8, 1.0], [1.0, 2.0, 4.0, 50.0, 50.0]])
    advantages, returns = ppo_losses.gae(rewards, values, TOKENS, gamma=0.5, lam=0.5)
    # first row, deltas: 0, -0.1, -0.2, -0.3, 0; second row: 0, 0, -2, and what is behind its end counts for nothing
    wanted = torch.tensor([[-0.0421875, -0.16875, -0.275, -0.3, 0.0], [-0.125, -0.5, -2.0, 0.0, 0.0]])
    wanted[0, 1] = -0.1 + 0.25 * -0.275
    wanted[0, 0] = 0.0 + 0.25 * wanted[0, 1]
    torch.testing.assert_close(advantages, wanted)
    torch.testing.assert_close(returns, wanted + values * TOKENS)


def test_with_gamma_and_lambda_one_an_advantage_is_return_minus_value() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(2, 5, generator=generator) * TOKENS for _ in range(2))
    advantages, returns = ppo_losses.gae(rewards, values, TOKENS, gamma=1.0, lam=1.0)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(advantages, (to_go - values) * TOKENS)
    torch.testing.assert_close(returns, to_go * TOKENS)


def test_whitening_counts_real_tokens_only() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 3.0, 5.0, 1e6, -1e6]])
    white = ppo_losses.whiten(values, TOKENS)
    assert float(white[TOKENS].mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(white[TOKENS].var(correction=0)) == pytest.approx(1.0, abs=1e-6)
    assert white[~TOKENS].tolist() == [0.0, 0.0]


def test_rewards_are_whitened_around_their_mean() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 3.0, 5.0, 7.0, 7.0]])
    white = ppo_losses.whiten(values, TOKENS, keep_mean=True)
    assert float(white[TOKENS].mean()) == pytest.approx(float(values[TOKENS].mean()), abs=1e-6)
    assert float(white[TOKENS].var(correction=0)) == pytest.approx(1.0, abs=1e-6)


def test_whitening_of_equal_values_stays_finite() -> None:
    assert ppo_losses.whiten(torch.ones(2, 5), TOKENS).abs().max() == 0


def test_policy_loss_by_hand() -> None:
    """Clip range 0.2, ratios 1.5, 0.5, 1.1: the worse of clipped and unclipped, for either sign of the advantage."""
    log_ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1]).log()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    loss = ppo_losses.clipped_policy_loss(log_ratio, advantages, cliprange=0.2)
    torch.testing.assert_close(loss, torch.tensor([-1.2, 1.5, -0.5, 0.8, -2.2]))


def test_at_ratio_one_the_gradient_is_that_of_reinforce() -> None:
    logps = torch.tensor([-0.5, -1.0, -2.0, -0.1, -3.0], requires_grad=True)
    advantages = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])
    ppo_losses.clipped_policy_loss(logps - logps.detach(), advantages, cliprange=0.2).sum().backward()
    torch.testing.assert_close(logps.grad, -advantages)


def test_value_loss_by_hand() -> None:
    """Old value 1, return 2, clip range 0.2: within the range the squared error, beyond it the worse of the two."""
    values = torch.tensor([1.1, 1.5, 0.5, 3.0])
    loss = ppo_losses.clipped_value_loss(values, torch.ones(4), torch.full((4,), 2.0), cliprange_value=0.2)
    torch.testing.assert_close(loss, 0.5 * torch.tensor([0.9**2, 0.8**2, 1.5**2, 1.0**2]))


def test_the_mean_of_log_ratios_under_the_policy_is_the_divergence() -> None:
    policy, other = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.25, 0.25])
    wanted = sum(p * math.log(p / q) for p, q in zip(policy.tolist(), other.tolist(), strict=True))
    assert float((policy * ppo_losses.log_ratios(policy.log(), other.log())).sum()) == pytest.approx(wanted, abs=1e-6)
