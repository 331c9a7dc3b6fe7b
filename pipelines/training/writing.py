"""Targets written for sources: by an encoder-decoder, or by a decoder that reads the source as its prompt."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from transformers import GenerationConfig, PreTrainedModel

from pipelines.errors import DataError
from pipelines.training.generation import batch_rows, left_padded
from pipelines.training.holdout import in_order, scoring
from pipelines.training.inputs import Tokens

Ids = list[int]


def prompt(source: Sequence[int], tokens: Tokens, *, is_encoder_decoder: bool) -> Ids:
    """What the model reads: `source eos`, for a decoder `[bos] source eos`."""
    first = [] if is_encoder_decoder or tokens.first_id is None else [tokens.first_id]
    return [*first, *map(int, source), tokens.eos_id]


def fitted(source: Sequence[int], model: PreTrainedModel, tokens: Tokens, *, max_new_tokens: int) -> tuple[Ids, bool]:
    """(the prompt, whether the source's end was cut off so that the model can read it and write its tokens)."""
    is_encoder_decoder = bool(model.config.is_encoder_decoder)
    whole = prompt(source, tokens, is_encoder_decoder=is_encoder_decoder)
    most = model.config.max_position_embeddings - (0 if is_encoder_decoder else max_new_tokens)
    room = most - (len(whole) - len(source))
    if room < 1 or max_new_tokens > model.config.max_position_embeddings:
        raise DataError(
            f"{max_new_tokens} new tokens leave no room for a source in the model's "
            f"{model.config.max_position_embeddings}; lower max_completion_length"
        )
    if len(source) <= room:
        return whole, False
    return prompt(source[:room], tokens, is_encoder_decoder=is_encoder_decoder), True


def write(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    tokens: Tokens,
    *,
    max_new_tokens: int,
    num_beams: int = 1,
    length_penalty: float = 1.0,
) -> list[Ids]:
    """What the model says after each prompt, without the token that ends it, on every rank.

    One beam is greedy; with more, the search divides each beam's log-probability by its length to the power of
    `length_penalty` (arXiv 1609.08144, 7). Batches are the same for every number of ranks."""
    settings = GenerationConfig(
        do_sample=False,
        num_beams=num_beams,
        length_penalty=length_penalty if num_beams > 1 else None,
        max_new_tokens=max_new_tokens,
        bos_token_id=tokens.bos_id,
        eos_token_id=list(tokens.stop_ids),
        pad_token_id=tokens.pad_id,
        decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
    )
    order = sorted(range(len(prompts)), key=lambda number: (-len(prompts[number]), number))
    state, parts = PartialState(), list[tuple[int, Ids]]()
    with scoring(model) as device:
        size = max(1, batch_rows(device) // num_beams)
        for number, start in enumerate(range(0, len(order), size)):
            if number % state.num_processes == state.process_index:
                batch = order[start : start + size]
                ids, is_token = left_padded([prompts[row] for row in batch], tokens.pad_id)
                found = model.generate(  # type: ignore[operator]
                    input_ids=ids.to(device), attention_mask=is_token.long().to(device), generation_config=settings
                )
                new = found[:, 1:] if model.config.is_encoder_decoder else found[:, ids.shape[1] :]
                parts += zip(batch, _ended(new, tokens), strict=True)
    return in_order(parts)


def _ended(rows: torch.Tensor, tokens: Tokens) -> list[Ids]:
    """Each row up to its first stop token."""
    stops, found = {*tokens.stop_ids, tokens.pad_id}, []
    for row in rows.tolist():
        end = next((place for place, token in enumerate(row) if token in stops), len(row))
        found.append(row[:end])
    return found


def texts(rows: Sequence[Any], tokens: Tokens) -> list[str]:
    """Rows of ids as text, without special tokens."""
    return [str(tokens.tokenizer.decode([int(token) for token in row], skip_special_tokens=True)) for row in rows]
