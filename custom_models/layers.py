"""The parts of a block that see one token at a time: norms, heads; and the block that joins them."""
# mypy: no-strict-optional

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration import TransformerConfig
from .feed_forward import FeedForward
from .moe import SparseFeedForward


class RMSNorm(nn.RMSNorm):
    """torch's. Where a CPU trains it in float32, the gradient is computed in a third of the time: torch has no kernel
    for it there, and takes each step of the formula back in turn."""

    def forward(self, states: Tensor) -> Tensor:
        is_plain = states.device.type == "cpu" and states.dtype == self.weight.dtype == torch.float32
        if is_plain and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return _RMSNormFunction.apply(states, self.weight, self.eps)
        return super().forward(states)


class _RMSNormFunction(torch.autograd.Function):
    """y = w x r with r = 1 / sqrt(mean(x^2) + eps), bit for bit torch's. With g the gradient of y, and n numbers in x,
    that of x is r w g - x r^3 sum(w g x) / n; that of w is the sum of g x r over all tokens."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = states.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(states, weight, scale)
        return (states * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        states, weight, scale = ctx.saved_tensors
        product = gradient * states
        of_weight = of_states = None
        if ctx.needs_input_grad[1]:
            of_weight = (product * scale).flatten(0, -2).sum(0)
        if ctx.needs_input_grad[0]:
            shared = product.mul_(weight).mean(-1, keepdim=True).mul_(scale.pow(3))
            of_states = torch.mul(gradient, weight, out=product).mul_(scale).addcmul_(states, shared, value=-1)
        return of_states, of_weight, None


NORMS = {"rms_norm": RMSNorm, "layer_norm": nn.LayerNorm}


def build_norm(config: TransformerConfig, size: int) -> nn.Module:
    return NORMS[config.norm](size, eps=config.norm_eps)


def softcapped(logits: Tensor, cap: float | None) -> Tensor:
    """Logits held below `cap` in size without a corner (arXiv 2408.00118, 2)."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


class Head(nn.Linear):
    """From hidden states to logits. The cap is in here, so that whoever takes the head alone has it too."""

    def __init__(self, config: TransformerConfig, *, bias: bool = False):
        super().__init__(config.hidden_size, config.vocab_size, bias=bias)
        self.softcap = config.final_logit_softcapping

    def forward(self, hidden_states: Tensor) -> Tensor:
        return softcapped(super().forward(hidden_states), self.softcap)


class Block(GradientCheckpointingLayer):
    """Attention, with an encoder to read also cross-attention, and a feed-forward, each added to the residual stream.

    The attentions are given, so that all families share the block. Norms have Llama's names where they are placed
    before, Gemma 2's where on both sides."""

    def __init__(self, config: TransformerConfig, attention: nn.Module, cross_attention: nn.Module | None = None):
        super().__init__()
        self.dropout, self.stochastic_depth = config.dropout, config.stochastic_depth
        self.placement, size = config.norm_placement, config.hidden_size
        before, after = self.placement != "post", self.placement != "pre"
        self.input_layernorm = build_norm(config, size) if before else None
        self.self_attn = attention
        self.post_attention_layernorm = build_norm(config, size)
        self.cross_attn = cross_attention
        if cross_attention is not None:
            self.pre_cross_layernorm = build_norm(config, size) if before else None
            self.post_cross_layernorm = build_norm(config, size) if after else None
        self.pre_feedforward_layernorm = build_norm(config, size) if before and after else None
        self.mlp = FeedForward(config) if config.num_experts is None else SparseFeedForward(config)
        self.post_feedforward_layernorm = build_norm(config, size) if after else None

    def forward(
        self, hidden_states: Tensor, cross_attention: Callable[[nn.Module, Tensor], Tensor] | None = None, **kwargs
    ) -> Tensor:
        """`kwargs` are the attention's: mask, rope angles, cache. `cross_attention` calls the block's own with what it
        reads."""
        is_pre = self.placement == "pre"
        hidden_states = self._add(
            hidden_states,
            lambda states: self.self_attn(states, **kwargs)[0],
            self.input_layernorm,
            None if is_pre else self.post_attention_layernorm,
        )
        if self.cross_attn is not None:
            hidden_states = self._add(
                hidden_states,
                lambda states: cross_attention(self.cross_attn, states),
                self.pre_cross_layernorm,
                self.post_cross_layernorm,
            )
        before = self.post_attention_layernorm if is_pre else self.pre_feedforward_layernorm
        return self._add(hidden_states, self.mlp, before, self.post_feedforward_layernorm)

    def _add(
        self,
        hidden_states: Tensor,
        sublayer: Callable[[Tensor], Tensor],
        before: nn.Module | None,
        after: nn.Module | None,
    ) -> Tensor:
        update = sublayer(hidden_states if before is None else before(hidden_states))
        if after is None:
            return hidden_states + self._dropped(update)
        if before is None:
            return after(hidden_states + self._dropped(update))
        return hidden_states + self._dropped(after(update))

    def _dropped(self, update: Tensor) -> Tensor:
        if not self.training:
            return update
        if self.dropout:
            update = F.dropout(update, self.dropout)
        if self.stochastic_depth:  # arXiv 1603.09382, scaled in training instead of later
            kept = 1 - self.stochastic_depth
            update = update * torch.empty_like(update[:, :1, :1]).bernoulli_(kept) / kept
        return update
