"""What is hidden from a model in pretraining: masked tokens, cut out spans, the rest of a prefix.

All of it is a pure function of (seed, place of the row in the run): each pass over the rows hides anew, and no micro
batch, process or restart makes a difference."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from pipelines.data.collate import IGNORED, Batch, padded, tensors
from pipelines.data.schedule import Noise, key
from pipelines.recipe.spans import noise_lengths

Item = dict[str, np.ndarray]
"""One row as the model takes it, unpadded."""


class Noised:
    """Rows with the noise of their own number: the same whenever they are looked at, for holdouts."""

    def __init__(self, rows: Any, noise: Noise):
        self._rows, self._noise = rows, noise
        self.lengths: np.ndarray = rows.lengths

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Item:
        return self._noise(self._rows[row], row)


class NoisedCollator:
    """Items of one kind of noise, padded on the right: each name is an array, (rows, tokens)."""

    BOOLEANS = ("places", "prefix_mask")

    def __init__(self, pad_id: int):
        # A padded place is position 0, and so a document of its own.
        self._fill = {"input_ids": pad_id, "decoder_input_ids": pad_id, "labels": IGNORED}

    def __call__(self, items: Sequence[Item]) -> Batch:
        arrays = {name: padded([item[name] for item in items], self._fill.get(name, 0))[0] for name in items[0]}
        return tensors({name: array.astype(bool) if name in self.BOOLEANS else array for name, array in arrays.items()})


# --- masks ------------------------------------------------------------------------------------------------------------


OPEN = -1
"""Of a token that no kind of character ends."""


@dataclass(frozen=True)
class Vocabulary:
    """What noise must know of each entry; arrays over the vocabulary."""

    is_special: np.ndarray
    """Control tokens, which are never hidden and never stand in for others."""
    begins_with_space: np.ndarray
    first_kind: np.ndarray
    """Of the token's first character: a letter, a number, a space or another. Part of a character counts as a letter,
    since most characters of several bytes are."""
    last_kind: np.ndarray
    """The same of its last character; a single space alone belongs to the word after it."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, vocab_size: int, special_ids: Collection[int]) -> "Vocabulary":
        """`special_ids` beside those that the tokenizer itself says are special."""
        added = [number for number, token in tokenizer.added_tokens_decoder.items() if token.special]
        is_special = np.zeros(vocab_size, bool)
        is_special[[*tokenizer.all_special_ids, *added, *special_ids]] = True
        names: Any = tokenizer.convert_ids_to_tokens(list(range(vocab_size)))
        # After a letter, since WordPiece and Unigram say of a word's first piece only there that a space is before it.
        texts = [tokenizer.convert_tokens_to_string(["a", name or ""])[1:] for name in names]
        return cls(
            is_special=is_special,
            begins_with_space=np.array([text[:1].isspace() for text in texts]),
            first_kind=np.array([_kind(text[:1]) for text in texts]),
            last_kind=np.array([OPEN if text == " " else _kind(text[-1:]) for text in texts]),
        )

    @cached_property
    def ordinary_ids(self) -> np.ndarray:
        return np.flatnonzero(~self.is_special)

    def word_numbers(self, ids: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Which word of the row each token belongs to. A word begins with a space or where the kind of character
        changes, as the pieces do that byte-level BPE merges within."""
        begins = np.ones(len(ids), bool)
        before, after = ids[:-1], ids[1:]
        changes = (self.last_kind[before] != self.first_kind[after]) & (self.last_kind[before] != OPEN)
        begins[1:] = self.begins_with_space[after] | changes
        begins[1:] |= self.is_special[before] | self.is_special[after] | (np.diff(documents) != 0)
        return np.cumsum(begins) - 1


def _kind(character: str) -> int:
    if character.isalpha() or character == "\ufffd":
        return 0
    return 1 if character.isnumeric() else 2 if character.isspace() else 3


@dataclass(frozen=True)
class MaskNoise:
    """Packed documents for masked_lm (arXiv 1810.04805, 3.1): tokens to be guessed are drawn over the whole row.

    Of n candidates, mlm_probability * n are drawn, rounded, and at least one. Whole words are taken as long as they do
    not exceed that number. Spans have geometric lengths (arXiv 1907.10529, 3.1) and end at the latest where their
    document does."""

    seed: int
    vocabulary: Vocabulary
    mask_id: int
    mlm_probability: float
    mask_replace_prob: float
    random_replace_prob: float
    whole_word_mask: bool = False
    mean_span_length: float | None = None
    """None: no spans."""

    def __call__(self, row: Sequence[np.ndarray], place: int) -> Item:
        """input_ids, labels (-100 where nothing is to be guessed), places (where something is), position_ids."""
        ids = np.concatenate(row).astype(np.int64)
        documents = np.repeat(np.arange(len(row)), [len(document) for document in row])
        rng = _generator(self.seed, place)
        units = self._units(ids, documents, rng)
        places = np.concatenate([np.zeros(0, np.int64), *units])
        labels = np.full(len(ids), IGNORED, np.int64)
        labels[places] = ids[places]
        # A span is replaced as one, but each piece of a word by itself.
        together = np.repeat(np.arange(len(units)), [len(unit) for unit in units])
        draws = rng.random(len(places))[together if self.mean_span_length else np.arange(len(places))]
        is_mask = draws < self.mask_replace_prob
        is_random = ~is_mask & (draws < self.mask_replace_prob + self.random_replace_prob)
        ids[places[is_mask]] = self.mask_id
        ids[places[is_random]] = rng.choice(self.vocabulary.ordinary_ids, int(is_random.sum()))
        return {"input_ids": ids, "labels": labels, "places": labels != IGNORED, "position_ids": _positions(row)}

    def _units(self, ids: np.ndarray, documents: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Places in the row, those in one array drawn as one."""
        is_candidate = ~self.vocabulary.is_special[ids]
        candidates = np.flatnonzero(is_candidate)
        if not len(candidates):
            return []
        budget = max(1, round(self.mlm_probability * len(candidates)))
        if self.mean_span_length is not None:
            return _spans(is_candidate, documents, budget, 1 / self.mean_span_length, rng)
        if self.whole_word_mask:
            words = self.vocabulary.word_numbers(ids, documents)[candidates]
            return _words(np.split(candidates, np.flatnonzero(np.diff(words)) + 1), budget, rng)
        return [rng.choice(candidates, budget, replace=False)]


def _words(words: list[np.ndarray], budget: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Words in random order that fit what is left of `budget` tokens; one in any case."""
    order, chosen = rng.permutation(len(words)), []
    for number in order:
        if len(words[number]) <= budget:
            chosen.append(words[number])
            budget -= len(words[number])
        if not budget:
            break
    return chosen or [words[order[0]]]


def _spans(
    is_candidate: np.ndarray, documents: np.ndarray, budget: int, end_probability: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Spans that together have `budget` tokens, none of them twice."""
    is_open, spans = is_candidate.copy(), []
    while budget:
        start = int(rng.choice(np.flatnonzero(is_open)))
        stop = min(start + min(int(rng.geometric(end_probability)), budget), len(is_open))
        inside = is_open[start:stop] & (documents[start:stop] == documents[start])
        stop = start + int(np.argmin(inside)) if not inside.all() else stop
        is_open[start:stop] = False
        spans.append(np.arange(start, stop))
        budget -= stop - start
    return spans


# --- spans ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpanNoise:
    """Span corruption (arXiv 1910.10683, 3.1.4) of rows that hold one piece of text: each span that is cut out leaves a
    sentinel, and the target says each sentinel with its span. Both end with eos.

    Every way to lay out the spans is equally likely; a row may begin or end with one, if less often than one is
    elsewhere."""

    seed: int
    sentinel_ids: tuple[int, ...]
    eos_id: int
    decoder_start_id: int
    noise_density: float
    mean_noise_span_length: float

    def __call__(self, row: Sequence[np.ndarray], place: int) -> Item:
        """input_ids and attention_mask, (source tokens,); labels and decoder_input_ids, (target tokens,)."""
        ids = np.concatenate(row).astype(np.int64)
        num_noise, num_spans = noise_lengths(len(ids), self.noise_density, self.mean_noise_span_length)
        rng = _generator(self.seed, place)
        kept = _segments(len(ids) - num_noise + 2, num_spans + 1, rng)
        kept[[0, -1]] -= 1  # a row may begin and end with a span
        cut = _segments(num_noise, num_spans, rng)
        ends = np.cumsum(np.stack([kept[:-1], cut], axis=1).ravel())
        parts = np.split(ids, ends)  # kept, cut, kept, cut, ..., kept
        sentinels = [np.array([number]) for number in self.sentinel_ids[:num_spans]]
        eos = np.array([self.eos_id])
        source = [part for pair in zip(parts[0::2], [*sentinels, eos], strict=True) for part in pair]
        target = [part for pair in zip(sentinels, parts[1::2], strict=True) for part in pair]
        inputs, labels = np.concatenate(source), np.concatenate([*target, eos])
        shifted = np.concatenate([[self.decoder_start_id], labels[:-1]])
        mask = np.ones(len(inputs), np.int64)
        return {"input_ids": inputs, "attention_mask": mask, "decoder_input_ids": shifted, "labels": labels}


def _segments(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` lengths of at least one that sum to `total`, every choice equally likely."""
    cuts = np.sort(rng.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)


# --- prefixes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PrefixNoise:
    """Packed documents for prefix_lm (arXiv 1910.10683, 3.2.1): each is split at a uniform place into a prefix, which
    sees itself in both directions, and the tokens to be said after it, at least one of each."""

    seed: int

    def __call__(self, row: Sequence[np.ndarray], place: int) -> Item:
        """input_ids, labels (the ids themselves, -100 in prefixes), prefix_mask, position_ids."""
        rng, ids = _generator(self.seed, place), np.concatenate(row).astype(np.int64)
        lengths = np.array([len(document) for document in row])
        splits = 1 + rng.integers(0, np.maximum(lengths - 1, 1))
        positions = _positions(row)
        is_prefix = positions < np.repeat(splits, lengths)
        labels = np.where(is_prefix, IGNORED, ids)
        return {"input_ids": ids, "labels": labels, "prefix_mask": is_prefix, "position_ids": positions}


def _positions(row: Sequence[np.ndarray]) -> np.ndarray:
    """They restart with every document."""
    return np.concatenate([np.arange(len(document)) for document in row])


def _generator(seed: int, place: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=key(seed, "noise", place)))
