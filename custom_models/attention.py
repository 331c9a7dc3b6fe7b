"""Multi-head, grouped-query, sliding-window and cross-attention, through whichever kernel transformers is set to."""
# mypy: no-strict-optional

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration import TransformerConfig
from .layers import build_norm, softcapped
from .positions import rotate


class Attention(nn.Module):
    """Self-attention of one layer; `is_causal` says what holds where no mask is given."""

    def __init__(self, config: TransformerConfig, layer_idx: int, *, is_causal: bool):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5 if config.attention_scaling is None else config.attention_scaling
        self.attention_dropout = config.attention_dropout
        self.softcap = config.attn_logit_softcapping
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        is_sliding = config.layer_types[layer_idx % len(config.layer_types)] == "sliding_attention"
        self.sliding_window = config.sliding_window if is_sliding else None

        query_size = config.num_attention_heads * config.head_dim
        key_value_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, key_value_size, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, key_value_size, bias=config.attention_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.attention_bias)
        self.q_proj.role, self.o_proj.role = "query", "residual"  # type: ignore[assignment]  # for initialisers
        self.gate_proj = None
        if config.attention_output_gate:
            self.gate_proj = nn.Linear(config.hidden_size, query_size, bias=config.attention_bias)
        self.q_norm = build_norm(config, config.head_dim) if config.qk_norm else None
        self.k_norm = build_norm(config, config.head_dim) if config.qk_norm else None

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        """(rows, tokens, hidden_size) and, from kernels that have them, the attention weights."""
        query = self._query(hidden_states, position_embeddings)
        key, value = self._key_value(hidden_states, position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)

        return self._attend(hidden_states, query, key, value, attention_mask, **kwargs)

    def _attend(
        self, hidden_states: Tensor, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs
    ) -> tuple[Tensor, Tensor | None]:
        """What the queries of `hidden_states` read, projected back."""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        if self.softcap is not None:  # sdpa has no cap, but its masks are read by eager attention too
            if self.config._attn_implementation not in ("sdpa", "eager"):
                kernel = self.config._attn_implementation
                raise ValueError(f"attn_logit_softcapping is not supported with {kernel}; use sdpa or eager")
            attend = eager_attention
        elif attention_mask is not None and attention_mask.requires_grad and attention_mask.device.type == "cpu":
            # To learn a bias, a CPU's sdpa spells attention out too, and reads the scores three times more.
            attend = eager_attention
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        output = output.reshape(*hidden_states.shape[:-1], -1)
        if self.gate_proj is not None:  # arXiv 2505.06708
            output = output * torch.sigmoid(self.gate_proj(hidden_states))
        return self.o_proj(output), weights

    def _query(self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(rows, heads, tokens, head_dim)"""
        query = self.q_proj(hidden_states).unflatten(-1, (-1, self.head_dim))
        return self._placed(query if self.q_norm is None else self.q_norm(query), position_embeddings)

    def _key_value(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Each (rows, heads, tokens, head_dim)."""
        key = self.k_proj(hidden_states).unflatten(-1, (-1, self.head_dim))
        value = self.v_proj(hidden_states).unflatten(-1, (-1, self.head_dim))
        key = self._placed(key if self.k_norm is None else self.k_norm(key), position_embeddings)
        return key, value.transpose(1, 2)

    def _placed(self, states: Tensor, position_embeddings: tuple[Tensor, Tensor] | None) -> Tensor:
        """(rows, tokens, heads, head_dim) to (rows, heads, tokens, head_dim), turned before that: the memory is still
        in order."""
        if position_embeddings is not None:
            states = rotate(states, *(angles.to(states.dtype) for angles in position_embeddings))
        return states.transpose(1, 2)


class CrossAttention(Attention):
    """A decoder's attention to what the encoder made of its input; it has no positions, and no window."""

    def __init__(self, config: TransformerConfig, layer_idx: int):
        super().__init__(config, layer_idx, is_causal=False)
        self.sliding_window = None

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        """(rows, tokens, hidden_size). The encoder's keys and values are computed once and then read from the cache."""
        query = self._query(hidden_states)
        if past_key_values is not None and past_key_values.is_updated.get(self.layer_idx):
            layer: Any = past_key_values.cross_attention_cache.layers[self.layer_idx]
            return self._attend(hidden_states, query, layer.keys, layer.values, attention_mask, **kwargs)
        key, value = self._key_value(encoder_hidden_states)
        if past_key_values is not None:
            key, value = past_key_values.cross_attention_cache.update(key, value, self.layer_idx)
            past_key_values.is_updated[self.layer_idx] = True
        return self._attend(hidden_states, query, key, value, attention_mask, **kwargs)


def eager_attention(
    module: Attention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Attention spelled out, with its weights. The mask is additive, 0 where a token is seen, or says where one is."""
    if attention_mask is None and module.is_causal and query.shape[2] > 1:
        if module.softcap is None:
            raise ValueError("eager attention of a causal model needs its mask; without one it would see the future")
        num_past = key.shape[2] - query.shape[2]  # masks made for another kernel are left out where causal says it all
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=key.device).tril(num_past)
    if module.num_key_value_groups > 1:
        key = key.repeat_interleave(module.num_key_value_groups, dim=1)
        value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = torch.matmul(query if scaling == 1 else query * scaling, key.transpose(2, 3))
    scores = softcapped(scores, module.softcap)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    if dropout:
        weights = F.dropout(weights, dropout)
    return torch.matmul(weights, value).transpose(1, 2), weights
