"""The parts of a block that see one token at a time: norms, feed-forwards, positions; and the block that joins them."""
# mypy: no-strict-optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration import TransformerConfig

NORMS = {"rms_norm": nn.RMSNorm, "layer_norm": nn.LayerNorm}


def build_norm(config: TransformerConfig, size: int) -> nn.Module:
    return NORMS[config.norm](size, eps=config.norm_eps)


class SwiGLU(nn.Module):
    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class GELU(nn.Module):
    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.up_proj(hidden_states), approximate="tanh"))


FEED_FORWARDS = {"swiglu": SwiGLU, "gelu": GELU}


def rope_angles(position_ids: Tensor, *, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angles, (rows, 1, tokens, head_dim), to be shared by all layers.

    Computed from nothing but the positions: a stored table would have to survive meta devices and bf16 casts.
    """
    steps = torch.arange(0, head_dim, 2, device=position_ids.device, dtype=torch.float32) / head_dim
    angles = position_ids[:, None, :, None].float() * (1.0 / theta**steps)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + head_dim / 2) of `states`, (rows, heads, tokens, head_dim), by its position's angle."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin


class Block(GradientCheckpointingLayer):
    """Pre-norm residual block. The attention is given, so that encoders and decoders share the block."""

    def __init__(self, config: TransformerConfig, attention: nn.Module):
        super().__init__()
        self.dropout = config.dropout
        self.input_layernorm = build_norm(config, config.hidden_size)
        self.self_attn = attention
        self.post_attention_layernorm = build_norm(config, config.hidden_size)
        self.mlp = FEED_FORWARDS[config.feed_forward](config)

    def forward(self, hidden_states: Tensor, **kwargs) -> Tensor:
        """`kwargs` are the attention's: mask, rope angles, cache."""
        update, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + self._dropped(update)
        return hidden_states + self._dropped(self.mlp(self.post_attention_layernorm(hidden_states)))

    def _dropped(self, update: Tensor) -> Tensor:
        if not self.dropout or not self.training:
            return update
        return F.dropout(update, self.dropout)
