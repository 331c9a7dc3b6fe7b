"""Who sees whom: causal and bidirectional, sliding windows, padding, and packed rows whose documents stay apart."""
# mypy: no-strict-optional, disable-error-code="misc"

from typing import TypeGuard

import torch
from torch import Tensor
from transformers import Cache
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
    create_causal_mask,
    create_sliding_window_causal_mask,
)
from transformers.utils.import_utils import is_tracing

from .configuration import TransformerConfig

CAUSAL = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}
BIDIRECTIONAL = {
    "full_attention": create_bidirectional_mask,
    "sliding_attention": create_bidirectional_sliding_window_mask,
}
PADDING = -2  # a position no token has, and that no position follows: each padded place is a document of its own


def causal_masks(
    config: TransformerConfig,
    inputs_embeds: Tensor,
    attention_mask: Tensor | dict | None,
    documents: Tensor | None = None,
    past_key_values: Cache | None = None,
    prefix_mask: Tensor | None = None,
) -> dict[str, Tensor | None]:
    """One mask for each type of layer; None where the kernel's own causal flag says it all.

    `documents`, (rows, tokens), are positions that restart with each document of a packed row. `prefix_mask`, of the
    same shape and only beside it, is true for tokens that see the later ones of their document's prefix too."""
    if prefix_mask is not None:
        return {
            layer_type: _with_prefixes(config, documents, prefix_mask, layer_type)
            for layer_type in set(config.layer_types)
        }
    if isinstance(attention_mask, dict):  # generate() with a static cache makes them itself
        return attention_mask
    if documents is not None and is_padding_mask(attention_mask):
        attention_mask = None  # already in the documents
    return {
        layer_type: CAUSAL[layer_type](
            config=config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=documents,
        )
        for layer_type in set(config.layer_types)
    }


def bidirectional_masks(
    config: TransformerConfig, inputs_embeds: Tensor, attention_mask: Tensor | None, documents: Tensor | None = None
) -> dict[str, Tensor | None]:
    """One mask for each type of layer; None where every token sees all others."""
    if documents is not None:
        return {layer_type: _within_documents(config, documents, layer_type) for layer_type in set(config.layer_types)}
    return {
        layer_type: BIDIRECTIONAL[layer_type](config=config, inputs_embeds=inputs_embeds, attention_mask=attention_mask)
        for layer_type in set(config.layer_types)
    }


def _within_documents(config: TransformerConfig, documents: Tensor, layer_type: str) -> Tensor:
    """(rows, 1, tokens, tokens), true where a token sees another."""
    _require_masks(config, "packed rows of an encoder")
    sees, distance = _same_document(documents)
    if layer_type == "sliding_attention":
        sees = sees & (distance.abs() <= config.sliding_window)
    return sees[:, None]


def _with_prefixes(config: TransformerConfig, documents: Tensor, prefix_mask: Tensor, layer_type: str) -> Tensor:
    """(rows, 1, tokens, tokens), true where a token sees another: an earlier one, or both stand in one prefix."""
    _require_masks(config, "prefixes")
    sees, distance = _same_document(documents)
    sees = sees & ((distance >= 0) | (prefix_mask[:, :, None] & prefix_mask[:, None, :]))
    if layer_type == "sliding_attention":  # as many tokens on the other side
        sees = sees & (distance.abs() < config.sliding_window)
    return sees[:, None]


def _same_document(documents: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, tokens, tokens), true where two tokens are of one document; (tokens, tokens), how far back."""
    starts = torch.ones_like(documents)
    starts[:, 1:] = documents.diff(dim=-1) != 1
    number, place = starts.cumsum(-1), torch.arange(documents.shape[1], device=documents.device)
    return number[:, :, None] == number[:, None, :], place[:, None] - place[None, :]


def _require_masks(config: TransformerConfig, what: str) -> None:
    if config._attn_implementation not in ("sdpa", "eager"):
        raise ValueError(f"{what} need sdpa or eager attention, not {config._attn_implementation}")


def is_packed(
    position_ids: Tensor | None, attention_mask: Tensor | dict | None, past_key_values: Cache | None = None
) -> bool:
    """Whether some row's positions restart between two real tokens (left padding repeats positions, harmlessly)."""
    is_prepared = attention_mask is not None and not is_padding_mask(attention_mask)
    if position_ids is None or position_ids.shape[-1] == 1 or is_prepared:
        return False
    if is_tracing(position_ids):  # values cannot be read: without a cache, make the mask that is right for both
        return past_key_values is None
    restarts = position_ids.diff(dim=-1) != 1
    if attention_mask is not None:
        is_token = attention_mask[:, -position_ids.shape[-1] :].bool()
        restarts = restarts & is_token[:, 1:] & is_token[:, :-1]
    packed = bool(restarts.any())
    if packed and past_key_values is not None:
        raise ValueError("position_ids restart, so these rows are packed; packed rows cannot use past_key_values")
    return packed


def documents_of(position_ids: Tensor, attention_mask: Tensor | dict | None) -> Tensor:
    """Positions in which each document is one run of consecutive numbers and padding joins none."""
    if not is_padding_mask(attention_mask):
        return position_ids
    return position_ids.expand(attention_mask.shape).masked_fill(~attention_mask.bool(), PADDING)


def is_padding_mask(attention_mask: Tensor | dict | None) -> TypeGuard[Tensor]:
    """(rows, tokens), 1 where a token is none of padding."""
    return isinstance(attention_mask, Tensor) and attention_mask.ndim == 2
