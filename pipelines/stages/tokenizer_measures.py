"""What a tokenizer makes of text: how long tokens are, which are used, how words, numbers and code are cut."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from tokenizers import Tokenizer

from pipelines.data.fast_bpe import PROBES
from pipelines.errors import DataError
from pipelines.stages.tokenizer_sample import thinned

PROBE_BYTES = 1_000_000
"""Of the sample, on which the use of the vocabulary is counted."""
HELD_OUT_CHARACTERS = 200_000
"""Of each dataset, on which the length of tokens is measured."""
ROUND_TRIP_CHARACTERS = 100_000
CANARY_CHARACTERS = 200_000
RARE = 10
"""A token that is used less often than this is rare."""
LONGEST = 12
CANARY_SHARE = 0.001
"""Of all pieces, from which on a word is counted exactly enough to be a canary."""
FEWEST = 3
"""Texts of a language, which must also be one in fifty, for a row of its own."""
LANGUAGE_TEXTS = 300
EXAMPLES = {
    "numbers": "In 2024 it cost 1234567.89, or 5 %",
    "code": "def area(self, w=10):\n    return self.height*w  # snake_case, camelCase\n",
    "whitespace": "one  two   \n\n\tthree",
    "languages": "Größe, déjà, привет, 東京, مرحبا 🙂",
}


def usage(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, Any]:
    """Shares of the vocabulary that a sample uses never, or rarely; control tokens do not count."""
    used: Counter[int] = Counter()
    for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
        used.update(encoding.ids)
    plain = max(1, _plain(tokenizer))
    rare = sum(count < RARE for count in used.values())
    return {
        "size": sum(len(text.encode()) for text in texts),
        "tokens": used.total(),
        "unused_share": round(1 - len(used) / plain, 4),
        "rare_share": round(rare / plain, 4),
    }


def lengths(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, Any]:
    """Bytes per token, and tokens per word, words being what stands between spaces."""
    return _ratios(_counted(tokenizer, texts))


def measured(tokenizer: Tokenizer, sample: Sequence[str], sources: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Everything that the report shows of a tokenizer; `sources` are held-out texts by the role of their dataset."""
    tokenizer.encode_special_tokens = True
    everything = [text for texts in sources.values() for text in texts]
    counts = {role: _counted(tokenizer, texts) for role, texts in sources.items()}
    short = _some(sample, ROUND_TRIP_CHARACTERS)
    return {
        "vocab_size": _size(tokenizer),
        **usage(tokenizer, sample),
        **_ratios([count for found in counts.values() for count in found]),
        "sources": {role: _ratios(found) for role, found in counts.items()},
        "languages": by_language(tokenizer, everything),
        "failures": len(round_trip_failures(tokenizer, short)),
        "texts": len(short),
        "unknown_share": unknown_share(tokenizer, everything),
        "longest": longest(tokenizer),
        "examples": {name: cut(tokenizer, text) for name, text in EXAMPLES.items()},
    }


def by_language(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, Any]:
    """The same by language, where there are several. Text of ASCII alone is taken for one language: to look would cost
    more than all the rest."""
    step = max(1, len(texts) // LANGUAGE_TEXTS)
    chosen = texts[::step]
    if all(text.isascii() for text in chosen):
        return {}
    from pipelines.cleaning.language import language_of

    groups: dict[str, list[str]] = {}
    for text in chosen:
        groups.setdefault(language_of(text)[0], []).append(text)
    kept = {name: group for name, group in groups.items() if len(group) >= max(FEWEST, len(chosen) / 50)}
    ordered = sorted(kept, key=lambda name: (-len(kept[name]), name))
    return {name: lengths(tokenizer, kept[name]) for name in ordered} if len(kept) > 1 else {}


def round_trip_failures(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Texts that do not come back as they were."""
    encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    decoded = tokenizer.decode_batch([one.ids for one in encoded], skip_special_tokens=False)
    return [text for text, again in zip(texts, decoded, strict=True) if text != again]


def require_round_trip(tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    """DataError unless these texts, and some of all kinds and planes, come back as they were."""
    tokenizer.encode_special_tokens = True
    rng = random.Random(0)
    shown = [*_some(texts, ROUND_TRIP_CHARACTERS), *PROBES, *(any_text(rng) for _ in range(1_000))]
    if failures := round_trip_failures(tokenizer, shown):
        raise DataError(
            f"{len(failures)} of {len(shown)} texts come back changed, such as {failures[0]!r:.200}, though "
            "this family should keep every text: a fault of this program, or of tokenizers"
        )


def require_control_apart(tokenizer: Tokenizer, tokens: Iterable[str]) -> None:
    """DataError where text that spells a control token becomes it, as a word would that was learnt too."""
    tokenizer.encode_special_tokens = True
    for token in sorted(tokens):
        if tokenizer.token_to_id(token) in tokenizer.encode(token, add_special_tokens=False).ids:
            raise DataError(
                f"the control token '{token}' is also learnt as text, so text would become it; choose another name, "
                "such as <|name|>, and where the text spells that too, a pre_tokenizer that cuts off signs (gpt2)"
            )


def any_text(rng: random.Random) -> str:
    """Characters of all planes, with plain ones between them."""
    tops = rng.choices((0x80, 0x300, 0x3000, 0x110000), (5, 2, 1, 2), k=rng.randrange(12))
    points = [rng.randrange(top) for top in tops]
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def require_frequent_words(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, Any]:
    """DataError where words that stand everywhere were not learnt, as happens when a trainer's counts overflow."""
    tokenizer.encode_special_tokens = True
    words: Counter[str] = Counter()
    for text in texts:
        words.update(f" {word}" for word in text.split())
    frequent = [word for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:100]]
    pieces = {word: len(tokenizer.encode(word, add_special_tokens=False).ids) for word in frequent}
    count, plain = sum(pieces.values()), _plain(tokenizer)
    if plain > 512 and count > 0.8 * sum(len(word.encode()) for word in frequent):
        raise DataError(
            f"the most frequent words of the text, such as {frequent[:3]}, were not learnt ({count} tokens for "
            f"{len(frequent)} words): lower max_bytes or change the mixture"
        )
    if split := _frequent_but_split(tokenizer, texts):
        raise DataError(
            f"{split[:5]} stand so often in the text that a vocabulary of {plain} must have them as single tokens, and "
            "it has not: the counts of the trainer are wrong; lower max_bytes"
        )
    return {"tokens_per_frequent_word": round(count / max(1, len(frequent)), 3)}


def _frequent_but_split(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Words, as they are cut before the vocabulary is asked, that merges must have made and did not.

    Each merge of a pair that stands n times makes the text n tokens shorter. So of a text of p pieces that are b bytes
    long on average, at most b / s merges can be of pairs that stand s * p times or more, and once there were so many, a
    word of that share is one token. Three times it is asked for, since a part of the text is looked at."""
    if type(tokenizer.model).__name__ not in ("BPE", "WordPiece"):
        return []
    counts: Counter[str] = Counter()
    norm, cuts = tokenizer.normalizer, tokenizer.pre_tokenizer
    for text in _some(texts, CANARY_CHARACTERS):
        text = norm.normalize_str(text) if norm is not None else text
        counts.update(text[start:stop] for _, (start, stop) in cuts.pre_tokenize_str(text))  # type: ignore[union-attr]
    mean = sum(len(piece.encode()) * count for piece, count in counts.items()) / max(1, counts.total())
    share = max(CANARY_SHARE, 3 * mean / max(1, _plain(tokenizer) - 256))
    frequent = [piece for piece, count in counts.most_common() if count > share * counts.total()]
    words = [piece for piece in frequent if piece.strip().isalpha() and _has_characters(tokenizer, piece.strip())]
    return [word for word in words if len(tokenizer.encode(word, add_special_tokens=False).ids) > 1]


def _has_characters(tokenizer: Tokenizer, word: str) -> bool:
    """Whether none of them was too rare to be learnt; of byte-level tokenizers it is known for ASCII only."""
    return all(tokenizer.token_to_id(character) is not None for character in word)


def unknown_share(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Share of tokens that are `<unk>`."""
    unknown = next((tokenizer.token_to_id(token) for token in ("<unk>", "[UNK]")), None)
    if unknown is None:
        return 0.0
    ids = [one.ids for one in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
    return round(sum(map(partial(list.count), ids, [unknown] * len(ids))) / max(1, sum(map(len, ids))), 6)


def longest(tokenizer: Tokenizer) -> list[str]:
    """The longest tokens as text, by their bytes."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    control = set(tokenizer.get_added_tokens_decoder())
    names = sorted(vocabulary, key=lambda name: (-len(name.encode()), name))[: 8 * LONGEST]
    texts = [tokenizer.decode([vocabulary[name]], skip_special_tokens=False) for name in names
             if vocabulary[name] not in control]  # fmt: skip
    return sorted(dict.fromkeys(texts), key=lambda text: (-len(text.encode()), text))[:LONGEST]


def cut(tokenizer: Tokenizer, text: str) -> list[str]:
    """The parts of a text that are one token each; a character of several tokens stands there once for each."""
    return [text[start:stop] for start, stop in tokenizer.encode(text, add_special_tokens=False).offsets]


def _counted(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[str, int]]:
    """(text, its tokens)"""
    encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [(text, len(one.ids)) for text, one in zip(texts, encoded, strict=True)]


def _ratios(counts: Iterable[tuple[str, int]]) -> dict[str, Any]:
    size = tokens = words = 0
    for text, count in counts:
        size, tokens, words = size + len(text.encode()), tokens + count, words + len(text.split())
    return {
        "bytes": size,
        "bytes_per_token": round(size / max(1, tokens), 4),
        "tokens_per_word": round(tokens / max(1, words), 4),
    }


def _some(texts: Sequence[str], characters: int) -> list[str]:
    return list(thinned(texts, characters / max(1, sum(map(len, texts)))))


def _plain(tokenizer: Tokenizer) -> int:
    """Entries that are no control tokens."""
    return tokenizer.get_vocab_size() - len(tokenizer.get_added_tokens_decoder())


def _size(tokenizer: Tokenizer) -> int:
    return 1 + max(tokenizer.get_vocab().values())
