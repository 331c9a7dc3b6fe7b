"""Scores of a masked language model: pseudo-log-likelihood, minimal pairs, and how many masked tokens it finds.

The model is any whose `model(input_ids=..., attention_mask=...).logits` are (rows, tokens, vocabulary). No value
depends on batches or padding, beyond rounding.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipelines.data.schedule import key
from pipelines.errors import DataError
from pipelines.evaluation import metrics
from pipelines.training.holdout import in_order

Correction = Literal["none", "within_word_l2r"]
"""none: only the token that is scored is masked (arXiv 1910.14659). within_word_l2r: the tokens of its word that
come after it are masked too, so that the end of a rare word does not give its beginning away (arXiv 2305.10588)."""

TOKENS_PER_FORWARD = 4096
MASKED_SHARE = 0.15


@dataclass(frozen=True)
class MaskedText:
    """A text as the model reads it."""

    input_ids: list[int]
    """Special tokens included."""
    scored: list[int]
    """Places of the text's own tokens: all but what the tokenizer puts around them."""
    words: list[int | None]
    """The number of the word that each token belongs to."""


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int) -> list[MaskedText]:
    """Texts with the tokenizer's own special tokens around them; text that spells such a token is plain characters.

    Words are those of the tokenizer's pre-tokenizer, so it must be a fast one. Raises DataError for a text that has no
    tokens, or more than the model can read.
    """
    found = tokenizer(list(texts), return_special_tokens_mask=True, split_special_tokens=True)
    rows = []
    for number, (ids, special) in enumerate(zip(found["input_ids"], found["special_tokens_mask"], strict=True)):
        scored = [place for place, is_special in enumerate(special) if not is_special]
        if not scored:
            raise DataError(f"text {number} has no tokens: {texts[number]!r}; leave it out")
        if len(ids) > max_length:
            raise DataError(f"text {number} has {len(ids)} tokens, and the model reads {max_length}; cut it")
        rows.append(MaskedText(list(ids), scored, found.word_ids(number)))
    return rows


@dataclass(frozen=True)
class _Copy:
    """A text with some tokens masked, of which some are asked for."""

    text: int
    """Its number."""
    input_ids: list[int]
    masked: tuple[int, ...]
    wanted: tuple[int, ...]


@dataclass(frozen=True)
class _Found:
    """What the model says at one place."""

    log_prob: float
    """Of the token that stands there, in nats."""
    is_first: bool
    """Whether it is the most probable one."""


@dataclass(frozen=True)
class MaskedScorer:
    """A masked language model in evaluation mode, with the two ids that it needs to know."""

    model: PreTrainedModel
    mask_id: int
    pad_id: int
    tokens_per_forward: int = TOKENS_PER_FORWARD
    """Most tokens of a forward pass, padding included; a longer row goes alone. The logits held are these many times
    the vocabulary."""

    def token_log_likelihoods(
        self, texts: Sequence[MaskedText], *, correction: Correction = "none"
    ) -> list[list[float]]:
        """Log-probability, in nats, of each scored token of each text, given the text around it."""
        copies = [copy for number, text in enumerate(texts) for copy in _one_by_one(number, text, correction)]
        values: list[list[float]] = [[] for _ in texts]
        for copy, (found,) in zip(copies, self._ask(copies), strict=True):
            values[copy.text].append(found.log_prob)
        return values

    def pseudo_log_likelihoods(self, texts: Sequence[MaskedText], *, correction: Correction = "none") -> list[float]:
        """The sums of these."""
        return [math.fsum(values) for values in self.token_log_likelihoods(texts, correction=correction)]

    def pseudo_perplexity(
        self, texts: Sequence[MaskedText], *, correction: Correction = "none"
    ) -> tuple[float, float | None]:
        """(exp of the mean negative log-likelihood of a token, standard error over texts), arXiv 1910.14659."""
        values = self.token_log_likelihoods(texts, correction=correction)
        mean, stderr = metrics.ratio([-math.fsum(row) for row in values], [len(row) for row in values])
        return math.exp(mean), None if stderr is None else math.exp(mean) * stderr

    def minimal_pair_accuracy(
        self, pairs: Sequence[tuple[MaskedText, MaskedText]], *, correction: Correction = "none"
    ) -> tuple[float, float | None]:
        """(share of pairs whose first text is more probable than the second, standard error); a tie is a miss."""
        scores = self.pseudo_log_likelihoods([text for pair in pairs for text in pair], correction=correction)
        return metrics.mean([float(good > bad) for good, bad in zip(scores[::2], scores[1::2], strict=True)])

    def masked_accuracy(
        self, texts: Sequence[MaskedText], *, seed: int, share: float = MASKED_SHARE
    ) -> tuple[float, float | None]:
        """(share of masked tokens that the model holds for the most probable, standard error over texts).

        `share` of each text's tokens, one at least, are masked at once. Which ones is decided by the seed and the
        text's number.
        """
        copies = [_some(number, text, seed, share) for number, text in enumerate(texts)]
        found = self._ask(copies)
        hits = [float(sum(place.is_first for place in row)) for row in found]
        return metrics.ratio(hits, [float(len(row)) for row in found])

    def _ask(self, copies: Sequence[_Copy]) -> list[list[_Found]]:
        """What the model says at the wanted places of each copy, on every rank. Batches are the same for every number
        of ranks, which take turns with them."""
        if self.model.training:
            raise ValueError("the model is in training mode, where dropout would decide its scores; call model.eval()")
        order = sorted(range(len(copies)), key=lambda number: -len(copies[number].input_ids))
        state, answers = PartialState(), list[tuple[int, list[_Found]]]()
        for turn, batch in enumerate(self._batches(order, copies)):
            if turn % state.num_processes == state.process_index:
                answers += zip(batch, self._forward([copies[number] for number in batch]), strict=True)
        return in_order(answers)

    def _batches(self, order: Sequence[int], copies: Sequence[_Copy]) -> Iterator[Sequence[int]]:
        start = 0
        while start < len(order):
            rows = max(1, self.tokens_per_forward // len(copies[order[start]].input_ids))
            yield order[start : start + rows]
            start += rows

    @torch.inference_mode()
    def _forward(self, copies: Sequence[_Copy]) -> list[list[_Found]]:
        shape = len(copies), max(len(copy.input_ids) for copy in copies)
        ids, is_token = torch.full(shape, self.pad_id), torch.zeros(shape, dtype=torch.long)
        for row, copy in enumerate(copies):
            ids[row, : len(copy.input_ids)] = torch.tensor(copy.input_ids)
            ids[row, list(copy.masked)] = self.mask_id
            is_token[row, : len(copy.input_ids)] = 1
        rows = [row for row, copy in enumerate(copies) for _ in copy.wanted]
        places = [place for copy in copies for place in copy.wanted]
        device = self.model.device
        logits = self.model(input_ids=ids.to(device), attention_mask=is_token.to(device)).logits
        log_probs = logits[rows, places].float().log_softmax(-1)
        targets = torch.tensor([copy.input_ids[place] for copy in copies for place in copy.wanted], device=device)
        values = iter(log_probs.gather(1, targets[:, None])[:, 0].tolist())
        firsts = iter((log_probs.argmax(-1) == targets).tolist())
        return [[_Found(next(values), next(firsts)) for _ in copy.wanted] for copy in copies]


def _one_by_one(number: int, text: MaskedText, correction: Correction) -> Iterator[_Copy]:
    """A copy for each scored token."""
    for place in text.scored:
        masked = [place]
        if correction == "within_word_l2r" and text.words[place] is not None:
            masked += [other for other in text.scored if other > place and text.words[other] == text.words[place]]
        yield _Copy(number, text.input_ids, tuple(masked), (place,))


def _some(number: int, text: MaskedText, seed: int, share: float) -> _Copy:
    """One copy with a share of its tokens masked, all of which are wanted."""
    count = max(1, round(share * len(text.scored)))
    chosen = np.random.default_rng(key("masked", seed, number)).permutation(len(text.scored))[:count]
    places = tuple(text.scored[place] for place in sorted(chosen.tolist()))
    return _Copy(number, text.input_ids, places, places)


def read_minimal_pairs(path: Path) -> list[tuple[str, str]]:
    """(acceptable, unacceptable) sentences of JSON lines with `sentence_good` and `sentence_bad`, as BLiMP's files."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    pairs = []
    for number, line in enumerate(text.split("\n"), 1):  # a JSON text may hold what `splitlines` also splits at
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            pair = row["sentence_good"], row["sentence_bad"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}:{number}: is no JSON with sentence_good and sentence_bad; write one such object a line"
            ) from error
        if not all(isinstance(text, str) and text.strip() for text in pair):
            raise DataError(f"{path}:{number}: sentence_good and sentence_bad need to be texts that are not empty")
        pairs.append(pair)
    if not pairs:
        raise DataError(f"{path}: has no pairs")
    return pairs
