"""Families of tokenizers, trained: the same text gives the same file, whatever the number of threads.

Byte-level BPE, BPE, WordPiece and words are trained by tokenizers. Two things are done around it. Its WordPiece trainer
numbers characters in the order of a hash table, so here they are numbered before. Its Unigram trainer adds up floats in
such an order, and two runs differ; so Unigram is trained by SentencePiece, in one thread, on counted pieces.

rustbpe 0.1.0 trains byte-level BPE faster, but not the same one: on 31.6 MB of English novels and 8,192 entries it took
3.3 s and tokenizers 7.3 s (two busy cores), the tokens were the same as a set, and 45 of 7,935 stood in another order,
since pairs that are equally frequent are merged in the order of their bytes there and of their characters here. At the
end of a vocabulary such a tie decides what is in it. Nothing in its interface gives the counts that would put it right.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from pipelines.data.cuts import SPACE, byte_pre_tokenizer, normalizer, pre_tokenizer
from pipelines.errors import DataError
from pipelines.recipe.tokenizer import PATTERNS, WITH_BYTES, TokenizerStage
from pipelines.stages.tokenizer_unigram import unigram_pieces

UNK_TOKEN = "<unk>"
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
"""What tokenizers looks for when it says a character by its bytes."""
CONTINUES = {True: "##", False: "⁀"}
"""What marks a WordPiece that begins no word: BERT's sign where spaces are dropped; where they are kept, as in
Markdown, one that hardly any text has."""
MOST_CHARACTERS = 1_000
"""Longer words are unknown to WordPiece, whose time grows with the square of their length."""


def train(config: TokenizerStage, texts: Iterable[str], special_tokens: Sequence[str]) -> Tokenizer:
    """A tokenizer of `config.algorithm`; `texts` are read more than once. DataError where vocab_size is too small."""
    return FAMILIES[config.algorithm](config, texts, special_tokens)


def byte_level_bpe(
    texts: Iterable[str],
    *,
    vocab_size: int,
    special_tokens: Sequence[str],
    cut: pre_tokenizers.PreTokenizer | None = None,
    norm: Any = None,
) -> Tokenizer:
    """Special tokens, the 256 bytes, merges: every text can be encoded, and is given back unchanged."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    _require(vocab_size, len(special_tokens) + len(alphabet), f"the 256 bytes and {len(special_tokens)} special tokens")
    tokenizer = Tokenizer(models.BPE())
    if norm is not None:
        tokenizer.normalizer = norm
    tokenizer.pre_tokenizer = cut or byte_pre_tokenizer("gpt2", None, "runs")
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=_added(special_tokens),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(texts), trainer)
    return tokenizer


def _byte_level_bpe(config: TokenizerStage, texts: Iterable[str], special_tokens: Sequence[str]) -> Tokenizer:
    cut = byte_pre_tokenizer(config.pre_tokenizer or "gpt2", config.digits, config.whitespace)
    return byte_level_bpe(
        texts,
        vocab_size=_asked(config),
        special_tokens=special_tokens,
        cut=cut,
        norm=normalizer(config.normalizer),
    )


def _byte(config: TokenizerStage, texts: Iterable[str], special_tokens: Sequence[str]) -> Tokenizer:
    size = 256 + len(special_tokens)
    if config.vocab_size not in (None, size):
        raise DataError(
            f"vocab_size {config.vocab_size}, but algorithm: byte has {size} entries: the 256 bytes and "
            f"{len(special_tokens)} special tokens; leave it out"
        )
    norm = normalizer(config.normalizer)
    return byte_level_bpe((), vocab_size=size, special_tokens=special_tokens, norm=norm)


def _bpe(config: TokenizerStage, texts: Iterable[str], special_tokens: Sequence[str]) -> Tokenizer:
    tokenizer, alphabet, first = _prepared(config, texts, special_tokens)
    trainer = trainers.BpeTrainer(
        vocab_size=_asked(config) - len(first) - len(special_tokens),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(texts), trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in learnt["merges"]]
    vocabulary = _numbered([*first, *sorted(learnt["vocab"], key=learnt["vocab"].get)])
    return _finished(tokenizer, _bpe_model(config, vocabulary, merges), _decoder(config), special_tokens)


def _char(config: TokenizerStage, texts: Iterable[str], special_tokens: Sequence[str]) -> Tokenizer:
    """BPE without merges."""
    tokenizer, alphabet, first = _prepared(config, texts, special_tokens)
    tokenizer.pre_tokenizer = None  # type: ignore[assignment]
    if config.vocab_size is not None:
        alphabet = alphabet[: config.vocab_size - len(first) - len(special_tokens)]
    model = _bpe_model(config, _numbered([*first, *alphabet]), [])
    return _finished(tokenizer, model, _decoder(config), special_tokens)


def _bpe_model(config: TokenizerStage, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> models.BPE:
    unknown = None if config.byte_fallback else UNK_TOKEN
    return models.BPE(vocab=vocabulary, merges=merges, byte_fallback=config.byte_fallback, unk_token=unknown)


def _unigram(config: TokenizerStage, texts: Iterable[str], special_tokens: Sequence[str]) -> Tokenizer:
    tokenizer, alphabet, first = _prepared(config, texts, special_tokens)
    first = [UNK_TOKEN, *first] if config.byte_fallback else first  # its model asks for one in any case
    size = _asked(config) - len(first) - len(special_tokens)
    pieces = unigram_pieces(counted_pieces(tokenizer, texts), alphabet, size)
    lowest = min(score for _, score in pieces)
    entries = [*((token, lowest) for token in first), *pieces]
    model = models.Unigram(vocab=entries, unk_id=0, byte_fallback=config.byte_fallback)
    return _finished(tokenizer, model, _decoder(config), special_tokens)


def _wordpiece(config: TokenizerStage, texts: Iterable[str], special_tokens: Sequence[str]) -> Tokenizer:
    tokenizer, alphabet, first = _prepared(config, texts, special_tokens, forms=2)
    drops_spaces = _cut(config) in ("bert", "whitespace")
    prefix = CONTINUES[drops_spaces]
    trainer = trainers.WordPieceTrainer(
        vocab_size=_asked(config) - len(special_tokens),
        special_tokens=[*first, *alphabet, *(prefix + character for character in alphabet)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=prefix,
        show_progress=False,
    )
    tokenizer.model = models.WordPiece(unk_token=UNK_TOKEN)
    tokenizer.train_from_iterator(iter(texts), trainer)
    vocabulary = json.loads(tokenizer.to_str())["model"]["vocab"]
    model = models.WordPiece(
        vocab=vocabulary,
        unk_token=UNK_TOKEN,
        max_input_chars_per_word=MOST_CHARACTERS,
        continuing_subword_prefix=prefix,
    )
    joined = decoders.Sequence([decoders.Replace(prefix, ""), _decoder(config)])
    decoder = decoders.WordPiece(prefix=prefix, cleanup=False) if drops_spaces else joined
    return _finished(tokenizer, model, decoder, special_tokens)


def _word(config: TokenizerStage, texts: Iterable[str], special_tokens: Sequence[str]) -> Tokenizer:
    tokenizer = _cutting(config)
    tokenizer.model = models.WordLevel(unk_token=UNK_TOKEN)
    size = _asked(config) - len(special_tokens)
    trainer = trainers.WordLevelTrainer(vocab_size=size, special_tokens=[UNK_TOKEN], show_progress=False)
    tokenizer.train_from_iterator(iter(texts), trainer)
    model = models.WordLevel(vocab=json.loads(tokenizer.to_str())["model"]["vocab"], unk_token=UNK_TOKEN)
    # Without a decoder, words are joined with a space.
    decoder = None if _cut(config) in ("bert", "whitespace") else _decoder(config)
    return _finished(tokenizer, model, decoder, special_tokens)


FAMILIES: Mapping[str, Callable[[TokenizerStage, Iterable[str], Sequence[str]], Tokenizer]] = {
    "byte_level_bpe": _byte_level_bpe,
    "bpe": _bpe,
    "unigram": _unigram,
    "wordpiece": _wordpiece,
    "word": _word,
    "char": _char,
    "byte": _byte,
}


def counted_pieces(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """How often each piece that no token crosses stands in the texts."""
    found: Counter[str] = Counter()
    norm, cut = tokenizer.normalizer, tokenizer.pre_tokenizer
    for text in texts:
        text = norm.normalize_str(text) if norm is not None else text
        found.update([piece for piece, _ in cut.pre_tokenize_str(text)] if cut is not None else [text])
    return found


def frequent_characters(counts: Mapping[str, int], coverage: float) -> list[str]:
    """As few characters as make up this share of a text, the frequent first."""
    ordered = sorted(counts, key=lambda character: (-counts[character], character))
    left = math.ceil(coverage * sum(counts.values()))
    kept = []
    for character in ordered:
        if left <= 0:
            break
        kept.append(character)
        left -= counts[character]
    return kept


def _prepared(
    config: TokenizerStage, texts: Iterable[str], special_tokens: Sequence[str], forms: int = 1
) -> tuple[Tokenizer, list[str], list[str]]:
    """(a tokenizer that cuts, the characters it will know, the entries before them)"""
    tokenizer = _cutting(config)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer is not None else text)
    if _cut(config) == "metaspace":
        counts[SPACE] += counts.pop(" ", 0)
    alphabet = frequent_characters(counts, config.character_coverage)
    with_bytes = config.byte_fallback and config.algorithm in WITH_BYTES
    first = BYTE_TOKENS if with_bytes else [UNK_TOKEN]
    if config.vocab_size is not None and config.algorithm != "char":
        smallest = len(first) + len(special_tokens) + forms * len(alphabet) + (config.algorithm == "unigram")
        parts = f"{len(alphabet)} characters, {len(special_tokens)} special tokens"
        _require(config.vocab_size, smallest, parts + (" and the 256 bytes" if with_bytes else ""))
    return tokenizer, alphabet, first


def _cutting(config: TokenizerStage) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if norm := normalizer(config.normalizer):
        tokenizer.normalizer = norm
    tokenizer.pre_tokenizer = pre_tokenizer(_cut(config), config.digits, config.whitespace)
    return tokenizer


def _cut(config: TokenizerStage) -> str:
    return config.pre_tokenizer or "gpt2"


def _decoder(config: TokenizerStage) -> decoders.Decoder:
    steps: list[Any] = [] if _cut(config) in PATTERNS else [decoders.Replace(SPACE, " ")]
    if config.algorithm in WITH_BYTES and config.byte_fallback:
        steps.append(decoders.ByteFallback())
    return decoders.Sequence([*steps, decoders.Fuse()])


def _finished(
    trained: Tokenizer, model: Any, decoder: decoders.Decoder | None, special_tokens: Sequence[str]
) -> Tokenizer:
    """Special tokens stand behind the model's own entries, so that no text that spells one becomes it. A new tokenizer,
    since the old one keeps whatever its trainer took for special."""
    tokenizer = Tokenizer(model)
    if trained.normalizer is not None:
        tokenizer.normalizer = trained.normalizer
    if trained.pre_tokenizer is not None:
        tokenizer.pre_tokenizer = trained.pre_tokenizer
    if decoder is not None:
        tokenizer.decoder = decoder
    unknown = [UNK_TOKEN] if tokenizer.token_to_id(UNK_TOKEN) is not None else []
    tokenizer.add_special_tokens(_added([*unknown, *special_tokens]))
    return tokenizer


def _added(tokens: Sequence[str]) -> list[AddedToken]:
    return [AddedToken(token, special=True, normalized=False) for token in tokens]


def _numbered(entries: Iterable[str]) -> dict[str, int]:
    return {entry: number for number, entry in enumerate(dict.fromkeys(entries))}


def _asked(config: TokenizerStage) -> int:
    assert config.vocab_size is not None
    return config.vocab_size


def _require(vocab_size: int, smallest: int, parts: str) -> None:
    if vocab_size < smallest:
        raise DataError(f"vocab_size {vocab_size} is too small for {parts}; give at least {smallest}")
