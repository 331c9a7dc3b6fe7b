"""The pages of docs/, as edits and commands that can be carried out."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block, and the last file that the text before it names."""

    language: str
    text: str
    file: str | None


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page in their order. A file is named by its path, or by its name if it lies beside the recipe."""
    text, file, end = (DOCS / page).read_text(encoding="utf-8"), None, 0
    for found in BLOCK.finditer(text):
        named = [span for span in SPAN.findall(text[end : found.start()]) if re.fullmatch(r"[\w/.-]+\.(py|yaml)", span)]
        file = _nearest(named, found[1]) or file
        yield Block(found[1], found[2], file)
        end = found.end()


def _nearest(named: list[str], language: str) -> str | None:
    """A recipe for yaml; for code the file that the paragraph is about: the first one it names."""
    ending = ".yaml" if language == "yaml" else ".py"
    return next((name for name in named if name.endswith(ending)), None)


def edited(text: str, diff: str) -> str:
    """Raises ValueError unless the old lines stand in the text exactly once."""
    lines = diff.splitlines()
    assert all(line[:1] in (" ", "+", "-", "") for line in lines), diff
    old = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
    new = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
    if text.count(old) != 1:
        raise ValueError(f"stands there {text.count(old)} times:\n{old}")
    return text.replace(old, new)
