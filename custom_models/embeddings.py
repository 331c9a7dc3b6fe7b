"""How a stack begins: embeddings of tokens, positions and segments, and where the tokens are."""
# mypy: no-strict-optional, disable-error-code="misc"

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache

from .configuration import TransformerConfig
from .layers import build_norm
from .masks import is_padding_mask
from .positions import build_position_bias, rope_angles, sinusoids


class EmbeddingsMixin:
    """Put before `PreTrainedModel` in a stack. The modules are the stack's own, so that they have Llama's names."""

    config: TransformerConfig
    training: bool

    def build_embeddings(self, config: TransformerConfig, *, is_causal: bool) -> None:
        """`embed_tokens`, and what else the configuration asks for; `is_causal` is for biases of distance."""
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = self.embed_segments = self.embed_norm = None
        if config.position_embedding == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        if config.type_vocab_size:
            self.embed_segments = nn.Embedding(config.type_vocab_size, config.hidden_size)
        if config.embedding_norm:
            self.embed_norm = build_norm(config, config.hidden_size)
        self.position_bias = build_position_bias(config, is_causal=is_causal)

    def embedded(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """The token embeddings alone, (rows, tokens, hidden_size), from exactly one of the two."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        return self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds

    def positions(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | dict | None,
        position_ids: Tensor | None = None,
        num_past: int = 0,
    ) -> Tensor:
        """(rows or 1, tokens). Rope sees distances only; absolute positions start at the first token after padding."""
        if position_ids is not None:
            return position_ids
        num_tokens = inputs_embeds.shape[1]
        if self.embed_positions is not None and num_past + num_tokens > self.embed_positions.num_embeddings:
            limit = self.embed_positions.num_embeddings
            raise ValueError(f"{num_past + num_tokens} tokens, but max_position_embeddings is {limit}")
        if self.config.position_embedding in ("learned", "sinusoidal") and is_padding_mask(attention_mask):
            return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -num_tokens:]
        return (torch.arange(num_tokens, device=inputs_embeds.device) + num_past)[None]

    def embed(
        self, inputs_embeds: Tensor, positions: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """What enters the first block, and rope's angles for all of them. Segments are the first where not given."""
        config, angles = self.config, None
        dtype = inputs_embeds.dtype
        if config.scale_embeddings:
            inputs_embeds = inputs_embeds * torch.tensor(config.hidden_size**0.5, dtype=dtype)
        if self.embed_segments is not None:
            first = positions.new_zeros(1, inputs_embeds.shape[1])
            inputs_embeds = inputs_embeds + self.embed_segments(first if token_type_ids is None else token_type_ids)
        elif token_type_ids is not None and bool(token_type_ids.any()):
            raise ValueError("token_type_ids name a second segment, but type_vocab_size is 0")
        if self.embed_positions is not None:
            inputs_embeds = inputs_embeds + self.embed_positions(positions)
        elif config.position_embedding == "sinusoidal":
            inputs_embeds = inputs_embeds + sinusoids(positions, size=config.hidden_size, dtype=dtype)
        elif config.position_embedding == "rope":
            angles = rope_angles(positions, config, dtype=dtype)
        if self.embed_norm is not None:
            inputs_embeds = self.embed_norm(inputs_embeds)
        if config.dropout and self.training:
            inputs_embeds = F.dropout(inputs_embeds, config.dropout)
        return inputs_embeds, angles

    def biased(
        self, masks: dict[str, Tensor | None], inputs_embeds: Tensor, past_key_values: Cache | None = None
    ) -> dict[str, Tensor | None]:
        """The masks of each type of layer with the biases of distance, where the positions are such."""
        if self.position_bias is None:
            return masks
        first = self.config.layer_types.index
        return {
            layer_type: self.position_bias(mask, inputs_embeds, past_key_values, layer_idx=first(layer_type))
            for layer_type, mask in masks.items()
        }
