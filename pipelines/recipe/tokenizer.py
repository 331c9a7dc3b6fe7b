"""The tokenizer stage: which family, how text is cut before it learns, or which finished tokenizer is taken over."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from pipelines.recipe.base import ArtifactKind, Bare, Bytes, LocalFile, Section
from pipelines.recipe.data import TokenizerMixture
from pipelines.recipe.training import StageConfig

Algorithm = Literal["byte_level_bpe", "bpe", "unigram", "wordpiece", "word", "char", "byte"]
Cut = Literal["gpt2", "gpt4", "gpt4o", "metaspace", "bert", "whitespace"]
Normalizer = Literal["nfc", "nfd", "nfkc", "nfkd", "lowercase", "strip_accents", "strip"]
PATTERNS = ("gpt2", "gpt4", "gpt4o")
"""Ways to cut that keep every character, as regular expressions."""
WITH_BYTES = ("bpe", "unigram", "char")
"""Families that may say a character that they do not know by its bytes."""
BYTES = ("byte_level_bpe", "byte")
"""Families that know nothing but bytes, and so every text."""
SWEPT = ("byte_level_bpe", "bpe", "unigram", "wordpiece", "word")
MOST_BYTES = 2_000_000_000
"""A pair cannot be counted more often than there are bytes, so below it no count of 32 bits overflows."""


def parse_count(value: Any) -> Any:
    """`16k` as 16,000; a plain number stays what it is."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"([0-9][0-9_]*)\s*([kM])", value.strip())
    if not found:
        raise ValueError(f"'{value}' is not a number of entries; write for example 16000 or '16k'")
    return int(found[1]) * {"k": 10**3, "M": 10**6}[found[2]]


VocabSize = Annotated[int, Field(ge=260, le=10_000_000), BeforeValidator(parse_count)]


class Reference(Section):
    """A finished tokenizer: a repository of the Hub, or a local folder or file."""

    hub: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
    """A model or tokenizer of the Hugging Face Hub: `org/name`. `make data` pins its commit in `<recipe>.lock`."""
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """Commit of a Hub repository, 40 hex digits; taken from `<recipe>.lock` unless written here."""
    path: Annotated[str | None, LocalFile()] = None
    """A folder with tokenizer.json, or a file of ranks that ends in .tiktoken; relative to the recipe."""
    pre_tokenizer: Literal["gpt2", "gpt4", "gpt4o"] | None = None
    """How text is cut before a .tiktoken file, which does not say it."""

    def faults(self) -> Iterator[str]:
        if (self.hub is None) == (self.path is None):
            yield f"give one of hub and path; got {'both' if self.hub else 'none'}"
        if self.revision and not self.hub:
            yield "revision: belongs to hub tokenizers only"
        is_ranks = self.path is not None and self.path.endswith(".tiktoken")
        if is_ranks and self.pre_tokenizer is None:
            yield f"path: a .tiktoken file does not say how text is cut; write pre_tokenizer: {', '.join(PATTERNS)}"
        if self.pre_tokenizer and not is_ranks:
            yield "pre_tokenizer: belongs to .tiktoken files; other tokenizers bring their own"

    def __str__(self) -> str:
        return self.hub or self.path or ""


class TokenizerSource(Reference):
    """A finished tokenizer that a recipe takes over."""

    own_chat_template: bool = False
    """Use the chat template that it brings, in place of the stage's chat_template."""


class TokenizerStage(StageConfig):
    """Train a tokenizer on the text of datasets, or take over a finished one."""

    produces = ArtifactKind.TOKENIZER
    kind: Literal["tokenizer"]
    algorithm: Algorithm = "byte_level_bpe"
    """byte_level_bpe knows all 256 bytes, so every text can be encoded and given back unchanged (as byte, which merges
    none). bpe (arXiv 1508.07909), unigram (arXiv 1804.10959) and char learn characters, and say others by their bytes;
    wordpiece and word have `<unk>` for what they do not know."""
    source: TokenizerSource | None = None
    """Take over a finished tokenizer instead of training one: {hub: org/name} or {path: folder}."""
    vocab_size: VocabSize | None = None
    """Entries, special tokens included. byte needs none; char without it keeps all that character_coverage asks for."""
    data: TokenizerMixture | None = None
    """Datasets to learn from; shares are of bytes. With `source` only the report reads them."""
    normalizer: Annotated[tuple[Normalizer, ...], Bare] = ()
    """Change text before it is cut, in this order; each loses something. Default: nothing."""
    pre_tokenizer: Cut | None = None
    """How text is cut into the pieces that no token crosses. gpt2, gpt4 (code: punctuation before a word and line ends
    after it) and gpt4o (also camelCase) keep every character; metaspace cuts at spaces as SentencePiece, bert and
    whitespace at spaces that they drop. Default: gpt2."""
    digits: Literal["together", "three", "single"] | None = None
    """Runs of digits stay together, or are cut into threes, or into single digits. Default: the pre_tokenizer's way."""
    whitespace: Literal["runs", "single"] = "runs"
    """Whether a run of spaces or line ends may become one token."""
    byte_fallback: bool = True
    """bpe, unigram, char: tokens for the 256 bytes, so that every text can be encoded; false has `<unk>` instead."""
    character_coverage: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9995
    """bpe, unigram, wordpiece, char: share of the text whose characters get a token each, frequent ones first."""
    special_tokens: Annotated[tuple[str, ...], Bare] = ()
    """Further control tokens, which text never becomes, beside those of the chat template."""
    num_reserved: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Control tokens `<|reserved_0|>`, ... kept free for later."""
    chat_template: Annotated[str, LocalFile()] = "chatml"
    """A file in recipes/chat_templates (without .jinja), or a path relative to the recipe."""
    add_bos_token: bool = True
    """Start every document and conversation with the BOS token, in training, generation and evaluation alike."""
    mask_token: bool = False
    """Have a token `<mask>`, for masked_lm."""
    num_sentinels: Annotated[int, Field(ge=0, le=1000)] = 0
    """Tokens `<extra_id_0>`, `<extra_id_1>`, ... that stand for cut out spans, for span_corruption (T5 has 100)."""
    max_bytes: Annotated[Bytes, Field(le=MOST_BYTES)] = 500_000_000
    """Most text to learn from: counts of the trainer overflow on huge corpora, and its memory grows with them."""
    compare: Annotated[tuple[Reference, ...], Field(max_length=8), Bare] = ()
    """Finished tokenizers that the report measures on the same text. They decide nothing of this one."""
    sweep: Annotated[tuple[VocabSize, ...], Field(max_length=12), Bare] = ()
    """Vocabulary sizes that are tried on a part of the text, for a curve in the report. They decide nothing either."""

    def faults(self) -> Iterator[str]:
        yield from self._of_source() if self.source is not None else self._of_training()
        named = [token for token in self.special_tokens if not token or token != token.strip()]
        if named:
            yield f"special_tokens: {named[0]!r} is empty, or has spaces around it"
        for token in self.special_tokens:
            if token in ("<unk>", "<mask>") or re.fullmatch(r"<0x[0-9A-F]{2}>|<extra_id_\d+>", token):
                yield f"special_tokens: {token} has a meaning already, as mask_token and num_sentinels; choose another"
        if len(set(self.special_tokens)) != len(self.special_tokens):
            yield "special_tokens: one stands there twice"
        if len(set(self.sweep)) != len(self.sweep):
            yield "sweep: a size stands there twice"

    def _of_source(self) -> Iterator[str]:
        for field in OF_TRAINING:
            if getattr(self, field) != type(self).model_fields[field].default:
                yield f"{field}: belongs to training a tokenizer, and source takes over a finished one; remove it"
        if (self.compare or self.sweep) and self.data is None:
            yield "compare: needs data to be measured on"

    def _of_training(self) -> Iterator[str]:
        if self.data is None:
            yield "data: is missing (datasets to learn from; or take over a tokenizer with source)"
        if self.vocab_size is None and self.algorithm not in ("byte", "char"):
            yield "vocab_size: is missing (entries, special tokens included)"
        for field, families in OF_FAMILIES.items():
            if self.algorithm not in families and getattr(self, field) != type(self).model_fields[field].default:
                yield f"{field}: has no meaning with algorithm: {self.algorithm}; it belongs to {', '.join(families)}"
        cut = self.pre_tokenizer or "gpt2"
        if cut not in PATTERNS and self.algorithm == "byte_level_bpe":
            yield f"pre_tokenizer: byte_level_bpe is cut by {', '.join(PATTERNS)}; {cut} loses spaces"
        if cut in ("bert", "whitespace") and self.algorithm in ("bpe", "unigram"):
            yield f"pre_tokenizer: {cut} belongs to wordpiece and word; {self.algorithm} would lose its spaces"
        for field in ("digits", "whitespace"):
            if cut not in PATTERNS and getattr(self, field) != type(self).model_fields[field].default:
                yield f"{field}: belongs to pre_tokenizer: {', '.join(PATTERNS)}, and this is {cut}"

    @property
    def keeps_text(self) -> bool:
        """Whether every text comes back as it was, by construction."""
        whole = self.algorithm in BYTES or (self.algorithm in WITH_BYTES and self.byte_fallback)
        return self.source is None and whole and not self.normalizer and (self.pre_tokenizer or "gpt2") in PATTERNS

    def meaning(self) -> dict[str, Any]:
        return {name: value for name, value in super().meaning().items() if name not in ("compare", "sweep")}


OF_TRAINING = (
    *("algorithm", "vocab_size", "normalizer", "pre_tokenizer", "digits", "whitespace", "byte_fallback"),
    *("character_coverage", "max_bytes", "sweep"),
)
_LEARNT: tuple[str, ...] = ("byte_level_bpe", "bpe", "unigram", "wordpiece", "word")
OF_FAMILIES: Mapping[str, tuple[str, ...]] = {
    "pre_tokenizer": _LEARNT,
    "digits": _LEARNT,
    "whitespace": _LEARNT,
    "byte_fallback": WITH_BYTES,
    "character_coverage": (*WITH_BYTES, "wordpiece"),
    "sweep": SWEPT,
}
"""Fields that only some families have."""
