"""Completions drawn in batches with a key-value cache; every draw depends on its key and its model, on nothing else.

A row's numbers come from (seed, rollout, row). Its probabilities come from the model, and there a batch of another
shape may round differently, by about 1e-7: a number within that distance of the border between two tokens may then
fall on the other side. Batches of one shape give the same bits.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from pipelines.data.schedule import key

BATCH_ROWS = {"cpu": 32}
"""Rows generated together. More is faster per row, up to what the caches hold; elsewhere than on a CPU, 256."""


def batch_rows(device: torch.device | str) -> int:
    """How many rows to generate together on this device."""
    return BATCH_ROWS.get(torch.device(device).type, 256)


def noise(seed: int, rollout: int, rows: Iterable[int], length: int) -> Tensor:
    """One number in [0, 1) for each row and token, (rows, length), from a generator of the row's own."""
    draws = [np.random.Generator(np.random.Philox(key=key(seed, "noise", rollout, row))).random(length) for row in rows]
    return torch.from_numpy(np.stack(draws))


def left_padded(rows: Sequence[Sequence[int]], pad_id: int, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Ids and a mask that is true on tokens, (rows, length), with the padding before the tokens."""
    length = length or max(map(len, rows))
    ids, is_token = np.full((len(rows), length), pad_id, dtype=np.int64), np.zeros((len(rows), length), dtype=bool)
    for number, row in enumerate(rows):
        ids[number, length - len(row) :] = row
        is_token[number, length - len(row) :] = True
    return torch.from_numpy(ids), torch.from_numpy(is_token)


def positions(is_token: Tensor) -> Tensor:
    """Places counted from a row's first token, (rows, length); padding is at 0."""
    return (is_token.long().cumsum(-1) - 1).clamp(min=0)


def sample(
    model: PreTrainedModel,
    ids: Tensor,
    is_token: Tensor,
    numbers: Tensor,
    *,
    stop_ids: Sequence[int],
    pad_id: int,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """New tokens and a mask that is true on them, both (rows, new tokens): each row up to its first stop token.

    `ids` and `is_token` are left-padded prompts, `numbers` has one number per row and new token (see `noise`), inverse
    transform sampling: the whole distribution at this temperature, nothing cut off. Temperature 0 is greedy."""
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        tokens, lengths = _sample(model, ids, is_token, numbers.to(ids.device), stop_ids, temperature)
    model.train(was_training)
    is_new = torch.arange(numbers.shape[1], device=ids.device) < lengths[:, None]
    return tokens.masked_fill(~is_new, pad_id), is_new  # new tensors: autograd refuses those of inference mode


def _sample(
    model: PreTrainedModel,
    ids: Tensor,
    is_token: Tensor,
    numbers: Tensor,
    stop_ids: Sequence[int],
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Tokens, anything behind a stop token, and the lengths of the completions, (rows,)."""
    rows, length = numbers.shape
    stops, tokens = torch.tensor(list(stop_ids), device=ids.device), ids.new_zeros((rows, length))
    lengths = torch.full_like(tokens[:, 0], length)
    # A finished row goes on unseen: its mask stays true, so unpadded prompts need no mask from start to end.
    mask = None if is_token.all() else torch.cat([is_token.long(), torch.ones_like(tokens)], dim=1)
    cache, step_ids, step_positions = DynamicCache(config=model.config), ids, positions(is_token)
    for turn in range(length):
        output = model(
            input_ids=step_ids,
            attention_mask=None if mask is None else mask[:, : ids.shape[1] + turn],
            position_ids=step_positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        token = _draw(output.logits[:, -1], numbers[:, turn : turn + 1], temperature)
        tokens[:, turn] = token
        lengths = torch.where(torch.isin(token, stops), lengths.clamp(max=turn + 1), lengths)
        if lengths.max() <= turn + 1:  # also at the last turn
            break
        step_ids, step_positions = token[:, None], step_positions[:, -1:] + 1
    return tokens, lengths


def _draw(logits: Tensor, numbers: Tensor, temperature: float) -> Tensor:
    """One token per row, (rows,), from logits (rows, vocabulary) and numbers (rows, 1)."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    # In float64: summed up in float32, the rare tokens of a large vocabulary would be drawn too often or never.
    cumulated = (logits.double() / temperature).softmax(dim=-1).cumsum(dim=-1)
    place = torch.searchsorted(cumulated, numbers.to(cumulated) * cumulated[:, -1:], right=True)
    return place.squeeze(-1).clamp(max=logits.shape[-1] - 1)


def complete(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    pad_id: int,
    temperature: float,
    seed: int,
    rollout: int = -1,
) -> list[list[int]]:
    """Completions of prompts, stop token included where there is one, in batches of a fixed number of rows.

    Row i is drawn with the key (seed, rollout, i); a prompt's completion therefore depends on its place in the list."""
    device = model.device
    chunk, completions = batch_rows(device), []
    for first in range(0, len(prompts), chunk):
        part = prompts[first : first + chunk]
        ids, is_token = left_padded(part, pad_id)
        numbers = noise(seed, rollout, range(first, first + len(part)), max_new_tokens)
        tokens, is_new = sample(
            model,
            ids.to(device),
            is_token.to(device),
            numbers,
            stop_ids=stop_ids,
            pad_id=pad_id,
            temperature=temperature,
        )
        completions += unpadded(tokens, is_new)
    return completions


def unpadded(tokens: Tensor, is_token: Tensor) -> list[list[int]]:
    """The rows as lists of different lengths, without padding."""
    lengths = is_token.sum(dim=1).tolist()
    return [row[:length] for row, length in zip(tokens.tolist(), lengths, strict=True)]
