"""Track `web` of the built-in world: pages about the village as a crawl would bring them home, junk and all.

Somewhat more than half of them are what they should be: a few stories with a line before and after them. Each of the
others has one fault that some step of cleaning is there for; `kind` says which, so what a step finds can be compared
with what was planted. `quiz` holds benchmark items with their answers, and so facts that are never true in other
training text: read it without decontamination, and scores on those items mean little.

The holdout has no junk, and none of its pages is a copy.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.data.village import OBJECTS, PEOPLE, PLACES, TALE, Draw, random_for, titled_story, until_allowed

Quiz = Callable[[random.Random], str]
"""A benchmark item with its answer."""

OPENINGS = (
    "This is what the people of the village had to say of the day, and we have written it down for you.",
    "The baker and the miller told us of these things, and that is how they have come to be here.",
    "We walked to the mill with a friend, and these are the things that we have seen.",
    "Those who have been to the village know the people, and those who have not will know them now.",
    "It was a day of wind and of rain, and that is the kind of day to be at home with a book.",
    "Every week we write to the people of the valley, and that is all they have to read.",
)
CLOSINGS = (
    "That is all we have for you, and we hope to be back with more of it soon.",
    "So much for the day, and a good night to all of you that have read to the end.",
    "If you have seen it with your own eyes, then you know that there is more to tell.",
    "The rest of it will be told to the end of the week, with all that we have heard.",
)
GERMAN = (
    "Heute war ich mit {person} im Dorf, und wir haben dort sehr viele schöne Dinge gesehen und gekauft.",
    "Danach sind wir zur Mühle gegangen, weil {person} dort noch etwas für die Großmutter abholen musste.",
    "Es hat den ganzen Nachmittag geregnet, aber niemand wollte deswegen früher nach Hause gehen.",
    "Am Abend saßen alle zusammen am Tisch, und {person} hat von den Ereignissen des Tages erzählt.",
    "Morgen wollen wir wieder hingehen, wenn das Wetter besser ist und der Bäcker geöffnet hat.",
)
MENU = ("Home", "News", "About us", "Weather", "Sign in", "Subscribe to our newsletter", "Read more", "Contact",
        "Privacy policy", "Map of the village", "Search", "All rights reserved", "Archive", "Shop", "Help")  # fmt: skip

KINDS: Mapping[str, float] = {
    "page": 0.52,
    "copy": 0.07,
    "near_copy": 0.06,
    "quote": 0.03,
    "quiz": 0.03,
    "salad": 0.05,
    "short": 0.04,
    "menu": 0.04,
    "list": 0.03,
    "repeated": 0.03,
    "symbols": 0.02,
    "foreign": 0.03,
    "broken": 0.01,
    "mojibake": 0.02,
    "contact": 0.02,
}
"""Share of each kind of page. `broken`, `mojibake` and `contact` are good but for characters, or for what they give
away; `salad` has the words of stories in no order; `quote` tells what another page does, with as much of its own."""
REACH = 400
"""A copy is of one of so many records before it, and so is what a page quotes."""
QUOTED_WORDS = 60
"""At least, one after the other."""


def page(split: str, seed: int, i: int, quiz: Quiz) -> dict[str, Any]:
    """A page and its kind."""
    kind = _kind(split, seed, i)
    rng = random_for("web", split, seed, i)
    if kind in FROM_OTHERS:
        original = _written(random_for("web", split, seed, _original(split, seed, i, rng)))
        return {"text": FROM_OTHERS[kind](original, rng), "kind": kind}
    lines = _written(rng)
    if kind == "quiz":
        lines[1:1] = [quiz(rng) for _ in range(rng.randint(1, 3))]
    text = SPOILT[kind](lines, rng) if kind in SPOILT else "\n\n".join(lines)
    return {"text": text, "kind": kind}


def _kind(split: str, seed: int, i: int) -> str:
    if split == "holdout":
        return "page"
    kind = random_for("web kind", split, seed, i).choices([*KINDS], [*KINDS.values()])[0]
    return "page" if i < REACH and kind in FROM_OTHERS else kind


def _original(split: str, seed: int, i: int, rng: random.Random) -> int:
    """A record before this one that is a page as it should be."""
    while True:
        number = rng.randrange(i - REACH, i)
        if _kind(split, seed, number) == "page":
            return number


def _written(rng: random.Random) -> list[str]:
    """The lines of a good page."""
    tales = [_tale(rng, (rng.choice(PEOPLE), rng.choice(OBJECTS))) for _ in range(rng.randint(4, 8))]
    return [rng.choice(OPENINGS), *tales, rng.choice(CLOSINGS)]


def _tale(rng: random.Random, cast: tuple[str, str]) -> str:
    """Scenes have questions, and so say much twice: what is measured of repetition would find most pages at fault."""
    return until_allowed(lambda: titled_story(Draw(rng), TALE, cast=cast, training=True)).text


def _copied(lines: list[str], rng: random.Random) -> str:
    """Letter by letter, or with other white space."""
    return rng.choice(("\n\n", "\n")).join(lines)


def _reworded(lines: list[str], rng: random.Random) -> str:
    """With another beginning and end."""
    first = rng.choice([line for line in OPENINGS if line != lines[0]])
    last = rng.choice([line for line in CLOSINGS if line != lines[-1]])
    return "\n\n".join([first, *lines[1:-1], last])


def _quoting(lines: list[str], rng: random.Random) -> str:
    """A page of its own, in the middle of which stand tales of another."""
    own, quote = _written(rng), list[str]()
    while sum(len(line.split()) for line in quote) < QUOTED_WORDS and len(quote) < len(lines) - 2:
        quote.append(lines[1 + len(quote)])
    return "\n\n".join([*own[:3], *quote, *own[3:]])


FROM_OTHERS: Mapping[str, Callable[[list[str], random.Random], str]] = {
    "copy": _copied,
    "near_copy": _reworded,
    "quote": _quoting,
}


# --- faults -------------------------------------------------------------------------------------------------------


def _salad(lines: list[str], rng: random.Random) -> str:
    mixed = []
    for line in lines:
        words = line.rstrip(".?").split()
        rng.shuffle(words)
        mixed.append(" ".join(words) + ".")
    return "\n\n".join(mixed)


def _short(lines: list[str], rng: random.Random) -> str:
    return rng.choice(lines[1:-1])


def _menu(lines: list[str], rng: random.Random) -> str:
    return "\n".join(rng.sample(MENU, rng.randint(8, len(MENU))))


def _list(lines: list[str], rng: random.Random) -> str:
    """Goods with their price, a line each."""
    goods = [f"The {rng.choice(OBJECTS)} of {rng.choice(PEOPLE)}: {rng.randint(2, 90)}." for _ in range(30)]
    return "\n".join(goods)


def _repeated(lines: list[str], rng: random.Random) -> str:
    return "\n\n".join([lines[0], *[rng.choice(lines[1:-1])] * rng.randint(8, 20)])


def _symbols(lines: list[str], rng: random.Random) -> str:
    return "\n\n".join(" ".join(f"#{word}" for word in line.split()) for line in lines)


def _foreign(lines: list[str], rng: random.Random) -> str:
    told = [sentence.format(person=rng.choice(PEOPLE)) for sentence in rng.sample(GERMAN, len(GERMAN))]
    return "\n\n".join(told)


def _broken(lines: list[str], rng: random.Random) -> str:
    """Read with the wrong encoding: what it does not know is lost."""
    return "\n\n".join(line.replace("a", "\ufffd") for line in lines)


def _mojibake(lines: list[str], rng: random.Random) -> str:
    """UTF-8 that was read as Windows-1252: quotation marks become three signs each."""
    told = f"“{lines[1]}” is what we have been told – it’s true."
    return "\n\n".join([lines[0], told.encode().decode("cp1252", errors="ignore"), *lines[2:]])


def _contact(lines: list[str], rng: random.Random) -> str:
    name, place = rng.choice(PEOPLE).lower(), rng.choice(PLACES)
    number = f"202-555-{rng.randrange(100, 200):04d}"
    return "\n\n".join(
        [*lines, f"Write to {name}@{place}.example, or call {number} and ask for the people of the mill."]
    )


SPOILT: Mapping[str, Callable[[list[str], random.Random], str]] = {
    "salad": _salad,
    "short": _short,
    "menu": _menu,
    "list": _list,
    "repeated": _repeated,
    "symbols": _symbols,
    "foreign": _foreign,
    "broken": _broken,
    "mojibake": _mojibake,
    "contact": _contact,
}
