"""The arithmetic of PPO: pure functions of tensors shaped (completions, tokens), right-padded.

`is_token` is true where a completion has a token. Sources: PPO, arXiv 1707.06347; GAE, arXiv 1506.02438; the per-token
KL penalty and whitening, arXiv 1909.08593 and 2009.01325.
"""

import torch
from torch import Tensor


def log_ratios(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """The sampled estimate of the KL divergence, token by token: its mean over samples of the policy is KL(policy,
    reference). Single values may be negative."""
    return logps - reference_logps


def token_rewards(kl: Tensor, scores: Tensor, is_token: Tensor, *, kl_coef: float) -> Tensor:
    """The KL penalty on every token, and on the last one, never on padding, the completion's score.

    `kl` and `is_token` are (completions, tokens), `scores` (completions,)."""
    rewards = torch.where(is_token, -kl_coef * kl, 0.0)
    last = is_token.sum(dim=1) - 1
    rewards[torch.arange(len(last), device=last.device), last] += scores
    return rewards


def gae(rewards: Tensor, values: Tensor, is_token: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns (arXiv 1506.02438, eq. 16), all (completions, tokens); zero on padding.

    `values[:, t]` is the value of the state before token t; a completion's last token ends the episode, also where it
    was only cut off by the length."""
    tokens = rewards.shape[1]
    rewards, values = (torch.where(is_token, tensor, 0.0) for tensor in (rewards, values))
    advantages = torch.zeros_like(rewards)
    following_value, following = rewards.new_zeros(len(rewards)), rewards.new_zeros(len(rewards))
    for turn in reversed(range(tokens)):
        delta = rewards[:, turn] + gamma * following_value - values[:, turn]
        following = torch.where(is_token[:, turn], delta + gamma * lam * following, 0.0)
        advantages[:, turn], following_value = following, values[:, turn]
    return advantages, advantages + values


def masked_mean(values: Tensor, is_token: Tensor) -> Tensor:
    """Mean over the tokens, a scalar."""
    return torch.where(is_token, values, 0.0).sum() / is_token.sum()


def whiten(values: Tensor, is_token: Tensor, *, keep_mean: bool = False) -> Tensor:
    """Unit variance over all tokens, and zero mean unless that is kept; zero on padding."""
    mean = masked_mean(values, is_token)
    variance = masked_mean((values - mean) ** 2, is_token)
    whitened = (values - mean) * (variance + 1e-8).rsqrt()
    return torch.where(is_token, whitened + mean if keep_mean else whitened, 0.0)


def clipped_policy_loss(log_ratio: Tensor, advantages: Tensor, *, cliprange: float) -> Tensor:
    """Loss per token, in the shape of its arguments (arXiv 1707.06347, eq. 7). `log_ratio` is log(new / old)."""
    ratio = log_ratio.exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - cliprange, 1 + cliprange))


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, cliprange_value: float) -> Tensor:
    """Half the squared error per token; where the value moved further than the clip range, the worse of the two."""
    near = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)
