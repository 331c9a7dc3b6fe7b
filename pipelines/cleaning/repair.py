"""Texts that went through the wrong hands: mojibake, HTML entities, control characters."""

import re
import unicodedata

import ftfy

CONFIG = ftfy.TextFixerConfig(
    uncurl_quotes=False, fix_latin_ligatures=False, fix_character_width=False, normalization=None
)
"""Only what was broken: curled quotes, ligatures and wide characters are how somebody wrote."""
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
BROKEN = re.compile("[\ufffd\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff\U000f0000-\U0010ffff]")
"""The replacement character, private use, and what is no character."""


def repaired(text: str, normalization: str | None) -> str:
    """The text mended. Of plain ASCII only control characters, entities and line ends may be wrong, and most texts are
    plain: the mending library is asked about the others."""
    if not text.isascii() or "&" in text or "\r" in text or CONTROL.search(text):
        text = ftfy.fix_text(text, CONFIG)
    return unicodedata.normalize(normalization, text) if normalization else text  # type: ignore[arg-type]


def bad_characters(text: str) -> float:
    """Share of characters that say nothing."""
    if text.isascii():
        return len(CONTROL.findall(text)) / max(1, len(text))
    return (len(BROKEN.findall(text)) + len(CONTROL.findall(text))) / max(1, len(text))
