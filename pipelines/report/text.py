"""Text of models and data, made safe to look at: what would steer a page or a terminal is shown as a code point."""

import unicodedata

KEPT = "\n\t"


def signs(text: str) -> str:
    """Spaces, tabs and line ends as signs, where it matters which of them stand there."""
    return text.replace(" ", "·").replace("\t", "⇥").replace("\n", "⏎").replace("\r", "␍")


def oneline(text: str, most: int) -> str:
    """At most so many characters of a text, on one line."""
    flat = " ".join(text[: 4 * most].split())
    return flat if len(flat) <= most else f"{flat[: most - 1].rstrip()}…"


def visible(text: str) -> str:
    """Control, formatting (bidi among them), private and lone surrogate characters as `⟨U+202E⟩`."""
    return "".join(
        char
        if char in KEPT or unicodedata.category(char) not in ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp")
        else f"⟨U+{ord(char):04X}⟩"
        for char in text
    )
