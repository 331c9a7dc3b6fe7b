"""How text is changed and cut before a tokenizer sees it, by name.

The patterns are written in what the dialects of tokenizers and tiktoken share, so that both cut the same way."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers

ENDINGS = "'s|'t|'re|'ve|'m|'ll|'d"
SPACE = "▁"
"""Stands for a space after metaspace, as in SentencePiece."""
DIGITS = {"three": r"\p{N}{1,3}", "single": r"\p{N}"}
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORDS: Mapping[str, Sequence[str]] = {
    "gpt2": (r"'(?:[sdmt]|ll|ve|re)", r" ?\p{L}+"),
    "gpt4": (f"(?i:{ENDINGS})", r"[^\r\n\p{L}\p{N}]?\p{L}+"),
    "gpt4o": (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+(?i:{ENDINGS})?",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*(?i:{ENDINGS})?",
    ),
}
_NUMBERS = {"gpt2": r" ?\p{N}+", "gpt4": DIGITS["three"], "gpt4o": DIGITS["three"]}
_OTHERS = {"gpt2": r" ?[^\s\p{L}\p{N}]+", "gpt4": r" ?[^\s\p{L}\p{N}]+[\r\n]*", "gpt4o": r" ?[^\s\p{L}\p{N}]+[\r\n/]*"}
_SPACES = {"gpt2": (), "gpt4": (r"\s*[\r\n]+",), "gpt4o": (r"\s*[\r\n]+",)}

NORMALIZERS: Mapping[str, tuple[type[Any], ...]] = {
    "nfc": (normalizers.NFC,),
    "nfd": (normalizers.NFD,),
    "nfkc": (normalizers.NFKC,),
    "nfkd": (normalizers.NFKD,),
    "lowercase": (normalizers.Lowercase,),
    "strip_accents": (normalizers.NFD, normalizers.StripAccents),
    "strip": (normalizers.Strip,),
}


def pattern(cut: str, digits: str | None = None, whitespace: str = "runs") -> str:
    """The regular expression of gpt2 (its encoder.py), gpt4 (cl100k) or gpt4o (o200k), with other digits or spaces."""
    numbers = _NUMBERS[cut] if digits is None else DIGITS.get(digits, r" ?\p{N}+")
    others = r" ?[^\s\p{L}\p{N}]+" if whitespace == "single" else _OTHERS[cut]
    spaces = (r"\s",) if whitespace == "single" else (*_SPACES[cut], r"\s+(?!\S)", r"\s+")
    return "|".join((*_WORDS[cut], numbers, others, *spaces))


def normalizer(names: Sequence[str]) -> normalizers.Normalizer | None:
    """One after the other; None where nothing is changed."""
    steps = [step() for name in names for step in NORMALIZERS[name]]
    return normalizers.Sequence(steps) if steps else None


def pre_tokenizer(cut: str, digits: str | None, whitespace: str) -> pre_tokenizers.PreTokenizer:
    """For families that learn characters."""
    match cut:
        case "metaspace":
            return pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never")
        case "bert":
            return pre_tokenizers.BertPreTokenizer()
        case "whitespace":
            return pre_tokenizers.WhitespaceSplit()
    return pre_tokenizers.Split(Regex(pattern(cut, digits, whitespace)), "isolated")


def byte_pre_tokenizer(cut: str, digits: str | None, whitespace: str) -> pre_tokenizers.PreTokenizer:
    """For byte-level BPE, whose own way of cutting is gpt2's."""
    if (cut, digits in (None, "together"), whitespace) == ("gpt2", True, "runs"):
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    split = pre_tokenizers.Split(Regex(pattern(cut, digits, whitespace)), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
