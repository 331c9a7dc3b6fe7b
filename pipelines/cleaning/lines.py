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
LONGEST = 200
"""Characters of a line from which on it is a paragraph, which may speak of cookies."""


class LineFilter:
    """Keeps the lines of a text that are worth reading; empty lines stay between those that are kept."""

    def __init__(self, config: Lines):
        self.config = config

    def __call__(self, text: str) -> str:
        kept = [line for line in text.split("\n") if not line.strip() or self._is_kept(line.strip())]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n")

    def _is_kept(self, line: str) -> bool:
        config = self.config
        if config.terminal_punctuation and not line.endswith(TERMINAL):
            return False
        if config.min_words and len(line.split(None, config.min_words)) < config.min_words:
            return False
        return not (config.boilerplate and len(line) < LONGEST and BOILERPLATE.search(line))
