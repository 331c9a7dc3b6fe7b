"""A heap of text as a crawl might bring it home, of which it is known what is wrong with it: planted junk of several
kinds, near copies, and boilerplate around documents. The same texts and seed make the same heap."""

import base64
import gzip
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cleaning.wrapping import unwrapped
from pipelines.data import microworld

PASSAGE = 3000
"""Characters of a document, at least; real text is cut where a paragraph ends."""
TALES = 10
"""Of the built-in world in a document."""
HELD = 100
"""Documents held out."""
ORIGINAL, COPY = "original", "copy"


@dataclass(frozen=True)
class Document:
    """One row of the heap."""

    text: str
    kind: str
    """original, copy, or a name in JUNK."""
    of: int | None = None
    """The number among the originals of which it is, or of which it is a copy."""
    boilerplate: tuple[str, ...] = ()
    """Lines that were put before and behind it."""


@dataclass(frozen=True)
class Recipe:
    """How much of what is planted."""

    junk: float = 0.5
    """Documents of junk for each original; all kinds equally often."""
    copied: float = 0.06
    """Share of the originals that are copied 3 to 20 times."""
    framed: float = 0.5
    """Share of originals and copies with boilerplate."""


def documents(data: Path | None, size: int, seed: int) -> Iterator[str]:
    """HELD documents, and as many more as make up `size` bytes; those of files in an order of chance."""
    if data is None:
        tales = (microworld.text("train", seed, number)["text"] for number in range(10**9))
        found: Iterator[str] = ("\n".join(next(tales) for _ in range(TALES)) for _ in range(10**9))
    else:
        files = sorted([*data.glob("*.txt"), *data.glob("*.txt.gz")]) if data.is_dir() else [data]
        raws = [gzip.decompress(raw) if (raw := path.read_bytes())[:2] == b"\x1f\x8b" else raw for path in files]
        some = [text for raw in raws for text in passages(raw.decode(errors="replace"))]
        random.Random(seed).shuffle(some)
        found = iter(some)
    total = 0
    for number, text in enumerate(found):
        yield text
        total += len(text.encode()) * (number >= HELD)
        if total >= size:
            return
    print(f"there are only {total / 1e6:.1f} MB of text", file=sys.stderr)


def passages(text: str) -> Iterator[str]:
    """Pieces of PASSAGE characters or a little more, a line for each paragraph."""
    text = text.replace("\r\n", "\n").strip("\ufeff \n")
    paragraphs = re.split(r"\n\s*\n", text)
    if len(paragraphs) * 2 * PASSAGE < len(text):  # no empty lines part them
        paragraphs = unwrapped(text).split("\n")
    some, size = list[str](), 0
    for paragraph in (" ".join(paragraph.split()) for paragraph in paragraphs):
        if paragraph:
            some.append(paragraph)
            size += len(paragraph)
        if size >= PASSAGE:
            yield "\n".join(some)
            some, size = [], 0


def make_heap(originals: Sequence[str], recipe: Recipe, seed: int) -> list[Document]:
    """All in an order of its own."""
    draw = random.Random(seed)
    words = sorted({word for text in originals for word in text.split()})
    heap = [Document(text, ORIGINAL, number) for number, text in enumerate(originals)]
    for number in sorted(draw.sample(range(len(originals)), round(recipe.copied * len(originals)))):
        for _ in range(draw.randint(3, 20)):
            heap.append(Document(near_copy(originals[number], words, draw), COPY, number))
    heap = [framed(document, draw) if draw.random() < recipe.framed else document for document in heap]
    for number in range(round(recipe.junk * len(originals))):
        kind = list(JUNK)[number % len(JUNK)]
        like = draw.choice(originals)
        heap.append(Document(JUNK[kind](draw, like, words), kind))
    draw.shuffle(heap)
    return heap


def near_copy(text: str, words: Sequence[str], draw: random.Random) -> str:
    """One word in 500 to one in 50 is another; sometimes the first or last paragraph is missing."""
    share, paragraphs = draw.uniform(0.002, 0.02), text.split("\n")
    if len(paragraphs) > 8 and draw.random() < 0.3:
        del paragraphs[draw.choice((0, -1))]
    lines = [[draw.choice(words) if draw.random() < share else word for word in line.split()] for line in paragraphs]
    return "\n".join(" ".join(line) for line in lines)


def composition(heap: Sequence[Document]) -> dict[str, Any]:
    """Documents, and shares of the bytes."""
    sizes = Counter[str]()
    for document in heap:
        around = sum(len(line.encode()) for line in document.boilerplate)
        name = document.kind if document.kind in (ORIGINAL, COPY) else "junk"
        sizes[name] += len(document.text.encode()) - around
        sizes["boilerplate"] += around
    total = sum(sizes.values())
    shares = {name: round(size / total, 3) for name, size in sizes.items()}
    return {"documents": len(heap), "megabytes": round(total / 1e6, 2), "shares_of_bytes": shares}


# --- boilerplate ------------------------------------------------------------------------------------------------------

SITES = ("Open Shelf", "The Reading Room", "Pagefinder", "Old Books Online", "The Paper Garden", "Library Nine")
BEFORE = (
    "Home | Books | Authors | Shop | About us | Contact | Log in",
    "We use cookies to make {site} work. By reading on you agree to our cookies. Accept all Settings",
    "Skip to main content Menu Search Basket (0)",
    "You are here: {site} > Library > English > Page {page}",
    "JavaScript is switched off in your browser. Some parts of {site} will not work.",
)
AFTER = (
    "Share this page: Facebook Twitter E-mail Print",
    "Copyright {year} {site}. All rights reserved. Terms of use. Privacy policy.",
    "Subscribe to our newsletter and never miss a new page of {site}.",
    "Previous page | Next page | Back to top",
    "{site} gives you this text under the Common Reader Licence, version 2. You may copy it, print it, lend it or "
    "use it again in works of your own as long as this notice stays with every copy and nobody is asked for a fee. "
    "The text comes as it is and without a promise of any kind; those who prepared it answer for no loss and no harm "
    "that may come of reading it, of trusting it or of not being able to reach it. Where the law of your country does "
    "not allow such a notice, the parts that it allows hold all the same.",
)


def framed(document: Document, draw: random.Random) -> Document:
    """With one or two lines before and behind."""
    facts = {"site": draw.choice(SITES), "page": draw.randint(2, 400), "year": draw.randint(1999, 2026)}
    before, after = (
        [line.format(**facts) for line in draw.sample(lines, draw.randint(1, 2))] for lines in (BEFORE, AFTER)
    )
    text = "\n".join([*before, document.text, *after])
    return Document(text, document.kind, document.of, (*before, *after))


# --- junk -------------------------------------------------------------------------------------------------------------

LATIN = (
    "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna "
    "aliqua enim ad minim veniam quis nostrud exercitation ullamco laboris nisi aliquip ex ea commodo consequat"
)
THINGS = ("flights", "insurance", "running shoes", "car hire", "mortgages", "watches", "hotel rooms", "phone covers")
TOWNS = ("London", "Leeds", "York", "Bristol", "Glasgow", "Cardiff", "Bath", "Exeter", "Dover", "Oxford")
PRAISE = ("cheap", "best", "discount", "top", "last minute", "low cost", "number one", "online")
SALES = (
    "Buy {praise} {thing} in {town} today.",
    "The {praise} {thing} of {town} are here for you and your family!",
    "Looking for {praise} {thing} in {town}?",
    "We have the {praise} {thing} that {town} has been waiting for.",
)


def noise(draw: random.Random, like: str, _: Sequence[str]) -> str:
    """Random bytes, read as Latin-1; without NUL, which the data stage takes for a fault of the file."""
    lines = (bytes(draw.choices(range(1, 256), k=80)).decode("latin-1") for _ in range(len(like) // 80 + 1))
    return "\n".join(line.replace("\n", " ") for line in lines)


def mojibake(draw: random.Random, like: str, _: Sequence[str]) -> str:
    """Words of Cyrillic letters in UTF-8, read as Windows-1252."""
    count = len(like) // 14 + 1
    words = ["".join(draw.choices("абвгдежзиклмнопрстуфхцчшщыьэюя", k=draw.randint(2, 10))) for _ in range(count)]
    return _sentences(words, draw).encode().decode("cp1252", errors="replace")


def word_salad(draw: random.Random, like: str, words: Sequence[str]) -> str:
    """Words of the vocabulary, all equally often, as sentences."""
    return _sentences([draw.choice(words).strip(".,;:!?\"'()").lower() for _ in like.split()], draw)


def shuffled(draw: random.Random, like: str, _: Sequence[str]) -> str:
    """The words of a document in another order."""
    words = [word.strip(".,;:!?\"'()").lower() for word in like.split()]
    draw.shuffle(words)
    return _sentences(words, draw)


def keyword_list(draw: random.Random, like: str, _: Sequence[str]) -> str:
    """What is searched for, a line each."""
    lines = (" ".join((draw.choice(PRAISE), draw.choice(THINGS), draw.choice(TOWNS))) for _ in range(len(like) // 24))
    return "\n".join(lines)


def sales_talk(draw: random.Random, like: str, _: Sequence[str]) -> str:
    """Sentences that were written for search engines."""
    found = []
    for _number in range(len(like) // 48 + 1):
        facts = {"praise": draw.choice(PRAISE), "thing": draw.choice(THINGS), "town": draw.choice(TOWNS)}
        found.append(draw.choice(SALES).format(**facts))
    return "\n".join(" ".join(found[at : at + 4]) for at in range(0, len(found), 4))


def lorem(draw: random.Random, like: str, _: Sequence[str]) -> str:
    return "Lorem ipsum dolor sit amet. " + _sentences(draw.choices(LATIN.split(), k=len(like.split())), draw)


def encoded(draw: random.Random, like: str, _: Sequence[str]) -> str:
    """Base64, as of a picture inside a page."""
    return base64.encodebytes(draw.randbytes(len(like) * 3 // 4 + 1)).decode().strip()


def repeated_lines(draw: random.Random, like: str, _: Sequence[str]) -> str:
    """A line of a document, again and again."""
    line = draw.choice([line for line in like.split("\n") if line.strip()])[:200]
    return "\n".join([line] * (len(like) // (len(line) + 1) + 2))


def _sentences(words: Sequence[str], draw: random.Random) -> str:
    """Of 5 to 20 words, in paragraphs of four."""
    found, at = [], 0
    while at < len(words):
        size = draw.randint(5, 20)
        found.append(" ".join(words[at : at + size]).capitalize() + ".")
        at += size
    return "\n".join(" ".join(found[at : at + 4]) for at in range(0, len(found), 4))


JUNK: dict[str, Callable[[random.Random, str, Sequence[str]], str]] = {
    "noise": noise,
    "mojibake": mojibake,
    "word_salad": word_salad,
    "shuffled": shuffled,
    "keyword_list": keyword_list,
    "sales_talk": sales_talk,
    "lorem": lorem,
    "encoded": encoded,
    "repeated_lines": repeated_lines,
}
"""Kind -> a text about as long as a document, of that kind; it may use the document and the vocabulary."""
