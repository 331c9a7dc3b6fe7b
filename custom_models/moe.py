"""Mixture of experts: a router, the experts that its tokens go through, and the losses that keep it in balance."""
# mypy: no-strict-optional

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration import GATED, TransformerConfig
from .feed_forward import ACTIVATIONS, FeedForward


class SparseFeedForward(nn.Module):
    """Each token goes through the `num_experts_per_tok` experts that its router likes best (arXiv 2401.04088), and
    through the shared ones (arXiv 2401.06066). No expert has a limit, so no token is dropped."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.router = Router(config)
        self.experts = Experts(config)
        self.shared_experts = None
        if config.num_shared_experts:  # several of them are one that is as wide as all
            self.shared_experts = FeedForward(config, config.num_shared_experts * config.moe_intermediate_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        _, weights, chosen = self.router(hidden_states)
        update = self.experts(hidden_states.flatten(0, -2), weights.flatten(0, -2), chosen.flatten(0, -2))
        update = update.view_as(hidden_states)
        return update if self.shared_experts is None else update + self.shared_experts(hidden_states)


class Router(nn.Module):
    """Which experts each token goes through, and what their outputs are multiplied by."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.num_chosen, self.is_normed = config.num_experts_per_tok, config.norm_topk_prob
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (rows, tokens, experts); weights and numbers of the chosen experts, (rows, tokens, chosen)."""
        logits = F.linear(hidden_states, self.weight)
        weights, chosen = _choose(logits, self.num_chosen)[1:]
        if self.is_normed:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return logits, weights, chosen


def _choose(logits: Tensor, num_chosen: int) -> tuple[Tensor, Tensor, Tensor]:
    probabilities = logits.softmax(dim=-1, dtype=torch.float32)  # bf16 would choose between rounded ones
    return probabilities, *probabilities.topk(num_chosen, dim=-1)


class Experts(nn.Module):
    """All experts of a layer, each projection one stack of matrices (experts, out, in)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        count, hidden, width = config.num_experts, config.hidden_size, config.moe_intermediate_size
        self.activation = ACTIVATIONS[config.feed_forward]
        self.gate_proj = None
        if config.feed_forward in GATED:
            self.gate_proj = nn.Parameter(torch.empty(count, width, hidden))
        self.up_proj = nn.Parameter(torch.empty(count, width, hidden))
        self.down_proj = nn.Parameter(torch.empty(count, hidden, width))

    def forward(self, states: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """(tokens, hidden) of states (tokens, hidden), weights and expert numbers (tokens, chosen).

        Sorted by expert, each expert's tokens are one slice. Tokens are repeated before they are sorted, so that
        gradients come back by a permutation as well: no two are added at one place, in whichever order."""
        (num_tokens, num_chosen), hidden = chosen.shape, states.shape[-1]
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        experts = torch.arange(len(self.up_proj), device=flat.device)
        ends = torch.searchsorted(flat.index_select(0, order), experts, right=True, out_int32=True)
        repeated = states[:, None].expand(num_tokens, num_chosen, hidden).reshape(-1, hidden)
        outputs = self._outputs(repeated.index_select(0, order), ends).index_select(0, order.argsort())
        outputs = outputs.view(num_tokens, num_chosen, hidden)
        return (outputs * weights[..., None]).sum(dim=1).to(outputs.dtype)

    def _outputs(self, states: Tensor, ends: Tensor) -> Tensor:
        """(tokens, hidden) of tokens sorted by expert; those of each expert end before `ends`, (experts,)."""
        dtype, kind = states.dtype, states.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        width, hidden = self.up_proj.shape[1:]
        if kind == "cuda" and dtype == torch.bfloat16 and not (width % 8 or hidden % 8):  # rows of 16 bytes
            return self._expert(states.to(dtype), self.gate_proj, self.up_proj, self.down_proj, partial(_grouped, ends))
        gates = [None] * len(ends) if self.gate_proj is None else self.gate_proj.unbind()
        slices = states.split(ends.diff(prepend=ends.new_zeros(1)).tolist())
        each = zip(slices, gates, self.up_proj.unbind(), self.down_proj.unbind(), strict=True)
        return torch.cat([self._expert(*one, F.linear) for one in each])

    def _expert(
        self, tokens: Tensor, gate: Tensor | None, up: Tensor, down: Tensor, linear: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        if gate is None:
            return linear(self.activation(linear(tokens, up)), down)
        return linear(self.activation(linear(tokens, gate)) * linear(tokens, up), down)


def _grouped(ends: Tensor, states: Tensor, stack: Tensor) -> Tensor:
    """One kernel for all experts, and no wait for how many tokens each has; autocast does not know it."""
    return F.grouped_mm(states, stack.to(states.dtype).transpose(1, 2), offs=ends)


# --- what the router costs --------------------------------------------------------------------------------------------


@dataclass
class SparseCausalLMOutput(CausalLMOutputWithPast):
    """`aux_loss` is the router's losses, weighted, a mean over the `num_tokens` of this batch that are no padding."""

    aux_loss: Tensor | None = None
    num_tokens: Tensor | None = None
    expert_tokens: Tensor | None = None
    """How many tokens chose each expert, (layers, experts)."""
    router_logits: tuple[Tensor, ...] | None = None


def router_outputs(router_logits: tuple[Tensor, ...], is_token: Tensor, config: TransformerConfig) -> dict[str, Any]:
    """The router's part of a SparseCausalLMOutput. `router_logits`, (rows, tokens, experts), of each layer; `is_token`,
    (rows, tokens), False where there is padding, which counts nowhere."""
    per_row, counts = zip(*(_layer_losses(logits, is_token, config) for logits in router_logits), strict=True)
    tokens = is_token.sum(dim=1)
    losses = torch.stack(per_row).mean(dim=0)
    return {
        "aux_loss": (losses * tokens).sum() / tokens.sum().clamp(min=1),
        "num_tokens": tokens.sum(),
        "expert_tokens": torch.stack(counts),
        "router_logits": router_logits,
    }


def _layer_losses(logits: Tensor, is_token: Tensor, config: TransformerConfig) -> tuple[Tensor, Tensor]:
    """The weighted losses of each row, (rows,), and how many tokens chose each expert, (experts,).

    Load balancing (arXiv 2101.03961, eq. 4; for several choices a sum over them) is the product of two means over
    tokens. They are taken over each row, as in arXiv 2412.19437, eq. 17: means over a micro batch would make the result
    depend on how the machine cuts the batch up. The z-loss is arXiv 2202.08906, eq. 5."""
    probabilities, _, chosen = _choose(logits, config.num_experts_per_tok)
    share = is_token / is_token.sum(dim=1, keepdim=True).clamp(min=1)
    choices = F.one_hot(chosen, config.num_experts).sum(dim=2) * is_token[..., None]
    frequency, probability = (
        torch.einsum("rt,rte->re", share, part.to(share.dtype)) for part in (choices, probabilities)
    )
    losses = config.router_aux_loss_coef * config.num_experts * (frequency * probability).sum(dim=1)
    if config.router_z_loss_coef:
        z_losses = logits.float().logsumexp(dim=-1).square()
        losses = losses + config.router_z_loss_coef * (z_losses * share).sum(dim=1)
    return losses, choices.sum(dim=(0, 1))
