"""Byte-level BPE through tiktoken's engine, with the ids of the tokenizer it is made from: about four times as fast.

The two differ in two places. tiktoken takes a piece that is in the vocabulary for one token without merging, and it
merges any two neighbours whose text is in the vocabulary, not only those that a merge names. Both come to the same
where each token is made by one merge, later tokens have higher ids, and merging a token's own bytes gives that token:
then the last two parts that become a token are always those of its merge, whatever stands beside it. `of` checks this
for every token. Engines of regular expressions may know other editions of Unicode, so texts are compared (`agrees`).
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pipelines.data.rows import batches
from pipelines.data.tokens import Ragged

Ids = list[int]

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
"""The pieces of `pre_tokenizers.ByteLevel(use_regex=True)`, written without backtracking."""
OWN_WAYS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "ignore_merges")
"""Settings of a BPE model that tiktoken does not have; `ignore_merges` would hide what `of` looks for."""
CHANGES = ("normalizer", "truncation", "padding")
"""Parts of a tokenizer that change texts or rows of ids."""
PROBES = (
    " don't  stop, it's 1999:\n\n\tfunction(x) { return x[0] + 'y'; }  \n",
    "Grüße, naïve façade — “quoted” … 東京都 привет नमस्ते مرحبا 🙂👩‍👩‍👧 e\u0301 \u00a0\u2028\u3000\u200b\ufeff",
    "\r\n \x00\x1c\x85 \u180e ﬁ ½ Ⅷ ٣ 𝒳 <|endoftext|> <|im_start|>",
)
"""Texts of all kinds, compared before anything else is."""


END = "<|text ends|>"
"""What stands behind each text where several are joined: the engine cuts there before anything else, so each text is
encoded as if alone."""
JOINED = 1 << 20
"""Characters of texts that are encoded by one call, about. Each call costs as much as some hundred characters."""


class FastBpe:
    """The engine of one tokenizer; made by `of`."""

    def __init__(self, ids: dict[bytes, int], pattern: str):
        """`ids` of all tokens, those of merged ones in the order of their merges: all that a rank must be."""
        import tiktoken

        self._end = max(ids.values()) + 1
        self._engine = tiktoken.Encoding(
            "sourdough",
            pat_str=pattern,
            mergeable_ranks=ids,
            special_tokens={END: self._end},
        )

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "FastBpe | None":
        """None where tiktoken could give other ids, or is no engine for this kind of tokenizer."""
        spec = json.loads(tokenizer.to_str())
        pattern, model = _pattern(spec), spec["model"]
        plain = model["type"] == "BPE" and not any(map(model.get, OWN_WAYS)) and not any(map(spec.get, CHANGES))
        # A token that is added without being special is looked for in texts, even when control tokens are not.
        if not plain or pattern is None or not all(token["special"] for token in spec["added_tokens"]):
            return None
        vocabulary, bytes_of = model["vocab"], bytes_of_characters()
        merged = [first + second for first, second in map(_both, model["merges"])]
        order = [*sorted(bytes_of, key=lambda character: vocabulary.get(character, -1)), *merged]
        ids = np.array([vocabulary.get(token, -1) for token in order])
        if len(set(order)) != len(order) or (ids < 0).any() or (np.diff(ids[256:]) <= 0).any():
            return None
        if any(len(tokenizer.model.tokenize(token)) != 1 for token in merged):
            return None
        named = zip(order, ids.tolist(), strict=True)
        try:
            return cls({bytes(bytes_of[character] for character in token): number for token, number in named}, pattern)
        except ValueError:  # tiktoken reads another dialect of regular expressions
            return None

    def encode(self, texts: Sequence[str], *, num_threads: int) -> list[Ids]:
        """Ids of each text, without control tokens."""
        return self.rows(texts, num_threads=num_threads).tolist()

    def rows(self, texts: Sequence[str], *, num_threads: int) -> Ragged:
        """The same as arrays, encoded a megabyte at a time."""
        groups = list(batches(texts, size=len, most=max(1, len(texts)), total=JOINED))
        if num_threads > 1 and len(groups) > 1:
            with ThreadPoolExecutor(num_threads) as pool:
                found = list(pool.map(self._with_ends, groups))
        else:
            found = [self._with_ends(group) for group in groups]
        ids = np.concatenate([np.zeros(0, np.uint32), *found])
        is_end = ids == self._end
        return Ragged(ids[~is_end], np.diff(np.flatnonzero(is_end), prepend=-1) - 1)

    def _with_ends(self, texts: Sequence[str]) -> np.ndarray:
        """Ids of these texts, with the mark behind each."""
        if any(END in text for text in texts):  # nobody writes that, but somebody could
            end = np.array([self._end], np.uint32)
            alone = [self._engine.encode_to_numpy(text, disallowed_special=()) for text in texts]
            return np.concatenate([part for one in alone for part in (one, end)])
        return self._engine.encode_to_numpy(END.join(texts) + END, allowed_special="all")

    def agrees(self, tokenizer: Tokenizer, texts: Sequence[str]) -> bool:
        """Whether these texts, and some of all kinds, get the same ids from the tokenizer itself."""
        return agree(self.encode, tokenizer, texts)


def agree(encode: Callable[..., list[Ids]], tokenizer: Tokenizer, texts: Sequence[str]) -> bool:
    """Whether `encode` gives these texts, and some of all kinds, the tokenizer's own ids."""
    shown = [*PROBES, *texts]
    slow = tokenizer.encode_batch_fast(shown, add_special_tokens=False)
    return encode(shown, num_threads=1) == [one.ids for one in slow]


def _both(merge: str | list[str]) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def _pattern(spec: dict[str, Any]) -> str | None:
    """How texts are cut into pieces, as a regular expression; None where it is done in another way."""
    steps = spec["pre_tokenizer"]
    if steps is None:
        return None
    steps = steps["pretokenizers"] if steps["type"] == "Sequence" else [steps]
    *cuts, last = steps
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    if not cuts:
        return GPT2_PATTERN if last["use_regex"] else None
    cut = cuts[0]
    one = len(cuts) == 1 and cut["type"] == "Split" and not last["use_regex"]
    if not one or cut["behavior"] != "Isolated" or cut["invert"] or "Regex" not in cut["pattern"]:
        return None
    return cut["pattern"]["Regex"]


@cache
def bytes_of_characters() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2's encoder.py), by byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return {characters[byte]: byte for byte in range(256)}
