"""Lines of a text that are no text: menus, notices, scripts (C4, arXiv 1910.10683, 2.2)."""

import re

from pipelines.recipe.quality import Lines

TERMINAL = tuple(".!?\"'\u201c\u201d\u2019\u2026\u203d\u3002\uff01\uff1f\u300d\u300f\u0964")
"""Characters that end a sentence, of ASCII and of other scripts; those beyond ASCII are three bytes long."""
BOILERPLATE = re.compile(
    r"javascript|\bcookies?\b|terms of (?:use|service)|privacy policy|all rights reserved|lorem ipsum"
    r"|\b(?:sign|log)(?:ed)? ?in\b|\bsubscribe\b|\bnewsletter\b|\bclick here\b|\bread more\b",
    re.IGNORECASE,
)
WORDS = (
    *("javascript", "cookie", "terms of", "privacy policy", "all rights", "lorem ipsum", "subscribe"),
    *("newsletter", "click here", "read more"),
)
ENTERING, IN = ("sign", "log"), ("in", " in", "edin", "ed in")
"""A text that has none of them in small letters has no BOILERPLATE, which takes twenty times as long to find."""
LIKE_ASCII = "\u017f\u0130\u0131"
"""Letters that regular expressions take for s and i where case does not matter, and that have other small letters."""
LONGEST = 200
"""Characters of a line from which on it is a paragraph, which may speak of cookies."""


class LineFilter:
    """Keeps the lines of a text that are worth reading; empty lines stay between those that are kept."""

    def __init__(self, config: Lines):
        self.config = config

    def __call__(self, text: str) -> str:
        has_boilerplate = self.config.boilerplate and may_have_boilerplate(text)
        kept = [line for line in text.split("\n") if not line.strip() or self._is_kept(line.strip(), has_boilerplate)]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n")

    def _is_kept(self, line: str, has_boilerplate: bool) -> bool:
        config = self.config
        if config.terminal_punctuation and not line.endswith(TERMINAL):
            return False
        if config.min_words and len(line.split(None, config.min_words)) < config.min_words:
            return False
        return not (has_boilerplate and len(line) < LONGEST and BOILERPLATE.search(line))


def may_have_boilerplate(text: str) -> bool:
    """False only where BOILERPLATE is nowhere in the text."""
    lowered = text.lower()
    if any(word in lowered for word in WORDS):
        return True
    if any(word in lowered and any(word + more in lowered for more in IN) for word in ENTERING):
        return True
    return not text.isascii() and any(letter in text for letter in LIKE_ASCII)
