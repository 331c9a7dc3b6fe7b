"""The parts of a block that see one token at a time: norms, heads; and the block that joins them."""
# mypy: no-strict-optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration import TransformerConfig
from .feed_forward import FeedForward
from .moe import SparseFeedForward

NORMS = {"rms_norm": nn.RMSNorm, "layer_norm": nn.LayerNorm}


def build_norm(config: TransformerConfig, size: int) -> nn.Module:
    return NORMS[config.norm](size, eps=config.norm_eps)


def softcapped(logits: Tensor, cap: float | None) -> Tensor:
    """Logits held below `cap` in size without a corner (arXiv 2408.00118, 2)."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


class Head(nn.Linear):
    """From hidden states to logits. The cap is in here, so that whoever takes the head alone has it too."""

    def __init__(self, config: TransformerConfig):
        super().__init__(config.hidden_size, config.vocab_size, bias=False)
        self.softcap = config.final_logit_softcapping

    def forward(self, hidden_states: Tensor) -> Tensor:
        return softcapped(super().forward(hidden_states), self.softcap)


class Block(GradientCheckpointingLayer):
    """Attention and a feed-forward, each added to the residual stream. The attention is given, so that encoders and
    decoders share the block. Norms have Llama's names where they are placed before, Gemma 2's where on both sides."""

    def __init__(self, config: TransformerConfig, attention: nn.Module):
        super().__init__()
        self.dropout, self.stochastic_depth = config.dropout, config.stochastic_depth
        self.placement = config.norm_placement
        if self.placement != "post":
            self.input_layernorm = build_norm(config, config.hidden_size)
        self.self_attn = attention
        self.post_attention_layernorm = build_norm(config, config.hidden_size)
        if self.placement == "sandwich":
            self.pre_feedforward_layernorm = build_norm(config, config.hidden_size)
        self.mlp = FeedForward(config) if config.num_experts is None else SparseFeedForward(config)
        if self.placement != "pre":
            self.post_feedforward_layernorm = build_norm(config, config.hidden_size)

    def forward(self, hidden_states: Tensor, **kwargs) -> Tensor:
        """`kwargs` are the attention's: mask, rope angles, cache."""
        if self.placement == "post":
            update, _ = self.self_attn(hidden_states, **kwargs)
            hidden_states = self.post_attention_layernorm(hidden_states + self._dropped(update))
            return self.post_feedforward_layernorm(hidden_states + self._dropped(self.mlp(hidden_states)))
        update, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        if self.placement == "pre":
            hidden_states = hidden_states + self._dropped(update)
            return hidden_states + self._dropped(self.mlp(self.post_attention_layernorm(hidden_states)))
        hidden_states = hidden_states + self._dropped(self.post_attention_layernorm(update))
        update = self.mlp(self.pre_feedforward_layernorm(hidden_states))
        return hidden_states + self._dropped(self.post_feedforward_layernorm(update))

    def _dropped(self, update: Tensor) -> Tensor:
        if not self.training:
            return update
        if self.dropout:
            update = F.dropout(update, self.dropout)
        if self.stochastic_depth:  # arXiv 1603.09382, scaled in training instead of later
            kept = 1 - self.stochastic_depth
            update = update * torch.empty_like(update[:, :1, :1]).bernoulli_(kept) / kept
        return update
