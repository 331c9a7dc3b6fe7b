"""Scores on held-out rows, cheap enough to take during training: bounded, dealt over the ranks, summed in one order."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn

from pipelines.data.collate import IGNORED, Batch, PackedCollator, PackedRows
from pipelines.data.noise import Noised, NoisedCollator
from pipelines.data.packing import Packing, pack_whole
from pipelines.data.schedule import Noise
from pipelines.data.tokens import TokenTable
from pipelines.training.losses import shifted, token_losses

MOST_ROWS = 1_000
MOST_TOKENS = 200_000
"""At most so many rows and tokens of each dataset's holdout are scored: its first, whose order is a hash of content."""
TOKENS_PER_BATCH = 4_096

Scores = Mapping[str, float]


@dataclass(frozen=True)
class TextHoldout:
    """A text dataset's holdout."""

    name: str
    share: float
    rows: PackedRows
    num_targets: int
    """Tokens that a document's start predicts: all but each document's first."""
    num_bytes: int
    num_documents: int

    @classmethod
    def of(cls, name: str, share: float, table: TokenTable, max_length: int) -> "TextHoldout | None":
        """None when nothing was held out."""
        lengths = table.lengths("input_ids")[: first_rows(table.lengths("input_ids"))]
        if not len(lengths) or not (lengths > 1).any():
            return None
        rows = PackedRows([(table, pack_whole(lengths, max_length))])
        num_bytes = int(table.lengths("num_bytes")[: len(lengths)].sum())
        return cls(name, share, rows, int((lengths - 1).clip(0).sum()), num_bytes, len(lengths))


@dataclass(frozen=True)
class NoisedHoldout:
    """A text dataset's holdout, of which something is hidden, always the same."""

    name: str
    share: float
    rows: Noised
    num_documents: int

    @classmethod
    def of(
        cls, name: str, share: float, table: TokenTable, pack: Callable[[TokenTable, int], Packing], noise: Noise
    ) -> "NoisedHoldout | None":
        """`pack` makes rows of a table's first documents. None when nothing was held out."""
        documents = first_rows(table.lengths("input_ids"))
        rows = PackedRows([(table, pack(table, documents))])
        return cls(name, share, Noised(rows, noise), documents) if len(rows) else None


class FirstRows:
    """The rows that are scored of each of several datasets' holdouts, numbered through."""

    def __init__(self, rows: Any):
        self._rows = rows
        starts = np.cumsum([0, *rows.sizes])
        counts = [first_rows(rows.lengths[a:b]) for a, b in pairwise(starts)]
        parts = [np.arange(start, start + count) for start, count in zip(starts[:-1], counts, strict=True)]
        self._places = np.concatenate([np.zeros(0, np.int64), *parts])
        self.lengths, self.longest = rows.lengths[self._places], rows.longest[self._places]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, row: int) -> Any:
        return self._rows[int(self._places[row])]


def first_rows(lengths: np.ndarray) -> int:
    """How many of the first rows are scored."""
    within = int(np.searchsorted(np.cumsum(lengths), MOST_TOKENS, side="right"))
    return min(MOST_ROWS, max(1, within), len(lengths))


def text_scores(model: nn.Module, holdouts: Sequence[TextHoldout], *, pad_id: int, eos_id: int) -> Scores:
    """Loss per token and bits per byte of each dataset, and both weighted by the shares.

    Bits per byte counts every token of the text that a document's start predicts, and not the document's end, as
    `evaluation.bits` does. Where a document is longer than a row, the first token of each further piece has no context
    and is counted with the mean of the others."""

    def sums(model: nn.Module, batch: Batch) -> Tensor:
        targets, losses = _token_losses(model, batch)
        is_target, is_end = targets != IGNORED, targets == eos_id
        parts = (losses, is_target, losses * is_end, is_end)
        return torch.stack([part.double().sum() for part in parts])

    scores: dict[str, float] = {}
    for holdout in holdouts:
        total, count, end_total, ends = _summed(model, holdout.rows, PackedCollator(pad_id), sums)
        scores[f"holdout_loss_{holdout.name}"] = total / count
        per_token = (total - end_total) / max(1.0, count - ends)
        bits = per_token / math.log(2) * (holdout.num_targets - ends) / holdout.num_bytes
        scores[f"holdout_bits_per_byte_{holdout.name}"] = bits
    if not holdouts:
        return {}
    return _with_means(scores, holdouts, ("holdout_loss", "holdout_bits_per_byte"))


def noised_scores(
    model: nn.Module,
    holdouts: Sequence[NoisedHoldout],
    *,
    collator: NoisedCollator,
    sums: Callable[[nn.Module, Batch], Tensor],
) -> Scores:
    """Loss per target of each dataset, the share guessed right where `sums` counts it, and both weighted by the
    shares."""
    scores: dict[str, float] = {}
    figures = ["holdout_loss"]
    for holdout in holdouts:
        total, count, *hits = _summed(model, holdout.rows, collator, sums)
        scores[f"holdout_loss_{holdout.name}"] = total / max(1.0, count)
        if hits:
            scores[f"holdout_accuracy_{holdout.name}"] = hits[0] / max(1.0, count)
            figures[1:] = ["holdout_accuracy"]
    return _with_means(scores, holdouts, figures)


def _with_means(
    scores: Mapping[str, float], holdouts: Sequence[TextHoldout | NoisedHoldout], figures: Sequence[str]
) -> Scores:
    shares, means = math.fsum(holdout.share for holdout in holdouts), {}
    for figure in figures:
        parts = [holdout.share * scores[f"{figure}_{holdout.name}"] for holdout in holdouts]
        means[figure] = math.fsum(parts) / shares
    return {**scores, **means, "holdout_rows": sum(holdout.num_documents for holdout in holdouts)}


def chat_scores(model: nn.Module, rows: Any, collator: Callable[[list[Any]], Batch]) -> Scores:
    """Loss per trained token."""
    if not len(rows):
        return {}
    total, count = _summed(model, rows, collator, token_sums)
    return {"holdout_loss": total / count, "holdout_rows": len(rows)}


def target_scores(model: nn.Module, rows: Any, collator: Callable[[list[Any]], Batch]) -> Scores:
    """Loss per token of the target, by an encoder-decoder."""
    if not len(rows):
        return {}

    def sums(model: nn.Module, batch: Batch) -> Tensor:
        targets = batch.pop("labels")
        losses = token_losses(model(**batch, use_cache=False).logits, targets)
        return torch.stack([losses.double().sum(), (targets != IGNORED).double().sum()])

    total, count = _summed(model, rows, collator, sums)
    return {"holdout_loss": total / count, "holdout_rows": len(rows)}


def reward_scores(model: nn.Module, rows: Any, collator: Callable[[list[Any]], Batch]) -> Scores:
    """Share of pairs whose chosen side scores higher, and the loss of the pairs."""
    return _pair_scores(model, rows, collator, lambda model, batch: reward_margins(model, batch))


def dpo_scores(
    model: nn.Module, rows: Any, collator: Callable[[list[Any]], Batch], *, loss: Callable[[Tensor], Tensor]
) -> Scores:
    """Share of pairs whose chosen side gained more on the reference, and `loss` of the gains' difference."""
    return _pair_scores(model, rows, collator, _dpo_margins, loss)


def reward_margins(model: nn.Module, batch: Batch) -> Tensor:
    """Score of the chosen side less that of the rejected one, (pairs,)."""
    scores = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    chosen, rejected = scores.squeeze(-1).float().chunk(2)
    return chosen - rejected


def completion_logps(model: nn.Module, batch: Batch) -> Tensor:
    """Log-probability of each row's completion, (rows,): chosen sides, then rejected ones."""
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    return -token_losses(logits, shifted(labels)).sum(-1)


def _dpo_margins(model: nn.Module, batch: Batch) -> Tensor:
    chosen, rejected = completion_logps(model, batch).chunk(2)
    return (chosen - batch["ref_chosen_logps"]) - (rejected - batch["ref_rejected_logps"])


def _pair_scores(
    model: nn.Module,
    rows: Any,
    collator: Callable[[list[Any]], Batch],
    margins: Callable[[nn.Module, Batch], Tensor],
    loss: Callable[[Tensor], Tensor] = lambda margin: -nn.functional.logsigmoid(margin),
) -> Scores:
    if not len(rows):
        return {}

    def sums(model: nn.Module, batch: Batch) -> Tensor:
        margin = margins(model, batch).double()
        wins = (margin > 0).double() + 0.5 * (margin == 0).double()
        return torch.stack([wins.sum(), loss(margin).sum(), margin.sum()])

    wins, total, margin = (value / len(rows) for value in _summed(model, rows, collator, sums))
    return {
        "holdout_accuracy": wins,
        "holdout_accuracy_stderr": math.sqrt(max(0.0, wins * (1 - wins)) / max(1, len(rows) - 1)),
        "holdout_loss": total,
        "holdout_margin": margin,
        "holdout_rows": len(rows),
    }


def token_sums(model: nn.Module, batch: Batch) -> Tensor:
    """Sum of the losses, and number of targets."""
    targets, losses = _token_losses(model, batch)
    return torch.stack([losses.double().sum(), (targets != IGNORED).double().sum()])


def target_sums(model: nn.Module, batch: Batch) -> Tensor:
    """The same of an encoder-decoder, whose places say their own target."""
    targets = batch.pop("labels")
    losses = token_losses(model(**batch, use_cache=False).logits, targets)
    return torch.stack([losses.double().sum(), (targets != IGNORED).double().sum()])


def masked_sums(model: nn.Module, batch: Batch) -> Tensor:
    """The same of masked tokens, and how many are guessed right."""
    labels = batch.pop("labels")
    targets, logits = labels[labels != IGNORED], model(**batch).logits
    parts = (token_losses(logits, targets), torch.ones_like(targets), logits.argmax(-1) == targets)
    return torch.stack([part.double().sum() for part in parts])


def _token_losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """What each place is to predict, and how badly it does, (rows, tokens) both."""
    targets = shifted(batch.pop("labels"))
    return targets, token_losses(model(**batch, use_cache=False).logits, targets)


def _summed(
    model: nn.Module,
    rows: Any,
    collator: Callable[[list[Any]], Batch],
    sums: Callable[[nn.Module, Batch], Tensor],
) -> list[float]:
    """`sums` over all rows. Batches are the same for every number of ranks, which take turns with them."""
    state, parts = PartialState(), []
    batches = fixed_batches(getattr(rows, "longest", rows.lengths))
    with scoring(model) as device:
        for number, batch in enumerate(batches):
            if number % state.num_processes == state.process_index:
                moved = {name: tensor.to(device) for name, tensor in collator([rows[row] for row in batch]).items()}
                parts.append((number, sums(model, moved).tolist()))
    return [math.fsum(values) for values in zip(*in_order(parts), strict=True)]


def row_logits(model: nn.Module, rows: Any, collator: Callable[[list[Any]], Batch]) -> tuple[np.ndarray, np.ndarray]:
    """A classifier's logits, (rows, names) float32, and the labels, of all rows in their order, on every rank."""
    state, parts = PartialState(), list[tuple[int, Any]]()
    with scoring(model) as device:
        for number, places in enumerate(fixed_batches(rows.longest)):
            if number % state.num_processes == state.process_index:
                batch = {name: part.to(device) for name, part in collator([rows[row] for row in places]).items()}
                labels = batch.pop("labels").cpu().numpy()
                logits = model(**batch).logits.float().cpu().numpy()
                parts += zip(places, zip(logits, labels, strict=True), strict=True)
    found = in_order(parts)
    return np.stack([logits for logits, _ in found]), np.stack([labels for _, labels in found])


def fixed_batches(longest: np.ndarray) -> list[list[int]]:
    """Rows in batches of like length and at most TOKENS_PER_BATCH places, whatever machine scores them."""
    batches: list[list[int]] = [[]]
    for row in np.argsort(longest, kind="stable").tolist():  # ascending: the next row is the longest so far
        if batches[-1] and (len(batches[-1]) + 1) * int(longest[row]) > TOKENS_PER_BATCH:
            batches.append([])
        batches[-1].append(row)
    return batches if batches[0] else []


def in_order(parts: list[tuple[int, Any]]) -> list[Any]:
    """What the ranks have, put into the order of its numbers, on every rank."""
    everyone: list[list[tuple[int, Any]]] = [parts]
    if PartialState().num_processes > 1:
        everyone = [[] for _ in range(PartialState().num_processes)]
        torch.distributed.all_gather_object(everyone, parts)
    return [value for _, value in sorted((part for some in everyone for part in some), key=lambda part: part[0])]


@contextmanager
def scoring(model: nn.Module) -> Iterator[torch.device]:
    """Without gradients and dropout; the model's mode comes back."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield next(model.parameters()).device
    finally:
        model.train(was_training)
