"""Texts that went through the wrong hands: mojibake, HTML entities, control characters."""

import re
import unicodedata

import ftfy

CONFIG = ftfy.TextFixerConfig(
    uncurl_quotes=False, fix_latin_ligatures=False, fix_character_width=False, normalization=None, explain=False
)
"""Only what was broken: curled quotes, ligatures and wide characters are how somebody wrote."""
AFTER_HTML = CONFIG._replace(unescape_html=False)
"""Below the first `<` of a text entities are meant as they stand."""
SUSPICIOUS = re.compile("[^\t\n\x20-\x25\x27-\x7e\u2013\u2014\u2018\u2019\u201c\u201d\u2026]")
"""What may be wrong: of ASCII control characters, entities and line ends; of the rest all but the signs of good
typography, which are in no encoding what a broken character consists of alone."""
CONTROL = bytes([*range(9), 11, 12, *range(14, 32), 127])
BROKEN = re.compile("[\ufffd\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff\U000f0000-\U0010ffff]")
"""The replacement character, private use, and what is no character."""


def repaired(text: str, normalization: str | None) -> str:
    """The text mended. The mending library goes from line to line, and is asked about those only that may be wrong."""
    html, parts, done = text.find("<"), [], 0
    while found := SUSPICIOUS.search(text, done):
        begin = text.rfind("\n", done, found.start()) + 1 or done
        end = text.find("\n", found.start()) + 1 or len(text)
        config = AFTER_HTML if 0 <= html < begin else CONFIG
        parts += [text[done:begin], ftfy.fix_text(text[begin:end], config)]
        done = end
    text = "".join([*parts, text[done:]]) if done else text
    return unicodedata.normalize(normalization, text) if normalization else text  # type: ignore[arg-type]


def bad_characters(text: str) -> float:
    """Share of characters that say nothing."""
    raw = text.encode()
    bad = len(raw) - len(raw.translate(None, CONTROL))
    if not text.isascii():
        bad += len(BROKEN.findall(text))
    return bad / max(1, len(text))
