"""Tracks `reviews` and `sentiment` of the built-in world: how somebody of the village feels about things.

A text of `sentiment` tells who does what, as the text track does, then what things and people are like, and asks for
one person. The answer follows from the state: a thing is good or bad, and whoever has a bad thing is unhappy, unless
it is said otherwise. Denials, contrasts, reports and second people keep the words of a text from giving it away.

A text of `reviews` has no label and says several things of one mood. So which of the 131 words are good can be learnt
without labels, from their company; from two hundred labels it cannot, since most words are in few of them or in none.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.data.village import (
    OBJECTS,
    PEOPLE,
    PLACES,
    RESERVED,
    RESERVED_IN_ORDER,
    TODAY,
    VERBS,
    Fact,
    random_for,
)

LABELS = ("negative", "positive")
QUALITIES = (
    ("dull", "torn", "rough", "heavy", "shabby", "ugly", "broken", "dirty", "rusty", "cracked", "bent", "stained",
     "faded", "crooked", "lumpy", "sticky", "soggy", "dusty", "grubby", "flimsy", "leaky", "mouldy", "shaky",
     "blunt", "clumsy", "dented", "frayed", "greasy", "grim", "hideous", "horrid", "itchy", "limp", "loose", "murky",
     "nasty", "patchy", "plain", "ragged", "rotten", "scratched", "scruffy", "shoddy", "smelly", "tacky", "tattered",
     "useless", "warped", "wobbly", "worn"),
    ("bright", "neat", "smooth", "light", "pretty", "lovely", "sound", "clean", "shiny", "whole", "straight",
     "spotless", "vivid", "even", "fluffy", "silky", "dry", "polished", "tidy", "sturdy", "tight", "fresh", "steady",
     "sharp", "handy", "elegant", "crisp", "glossy", "cheerful", "gorgeous", "splendid", "soft", "firm", "snug",
     "clear", "fine", "graceful", "fancy", "trim", "perfect", "dainty", "smart", "superb", "fragrant", "stylish",
     "charming", "useful", "solid", "balanced", "new"),
)  # fmt: skip
"""What things are like: bad, good."""
MOODS = (
    ("sad", "cross", "sorry", "upset", "angry", "gloomy", "grumpy", "bitter", "annoyed", "lonely", "bored", "tired",
     "worried", "hurt", "jealous"),
    ("glad", "happy", "pleased", "proud", "merry", "jolly", "content", "grateful", "hopeful", "delighted", "excited",
     "calm", "relieved", "lucky", "thrilled", "cheery"),
)  # fmt: skip
"""What people are like: unhappy, happy."""
DENIALS = ("not", "hardly", "far from")
VERDICTS = ("wrong", "right")


@dataclass(frozen=True)
class Scene:
    """Two people with a thing each; the first one is asked for."""

    person: str
    other: str
    thing: str
    other_thing: str


def sentiment(split: str, seed: int, i: int) -> dict[str, Any]:
    """A text, its label, and the form it takes. What the person asked for does is a reserved fact in the holdout, and
    no reserved fact holds in training; so no text is in both, and all facts of training are those of the text track."""
    rng = random_for("sentiment", split, seed, i)
    facts, scene = _scene(rng, split)
    form, is_happy = rng.choices([*FORMS], [share for share, _ in FORMS.values()])[0], rng.random() < 0.5
    claim = FORMS[form][1](rng, scene, is_happy)
    acts = [_act(fact, verb) for fact, verb in zip(facts, rng.sample(VERBS, 2), strict=True)]
    if form not in ("two things", "report") and rng.random() < 0.5:
        acts = acts[:1]
    rng.shuffle(acts)
    text = f"{TODAY} {' '.join(acts)} {claim} How is {scene.person}?"
    return {"text": text, "label": LABELS[is_happy], "form": form}


def review(split: str, seed: int, i: int) -> dict[str, Any]:
    """What somebody does, then two to four things that are said about it, all of one mood."""
    rng = random_for("reviews", split, seed, i)
    (fact, _), scene = _scene(rng, split)
    is_happy = rng.random() < 0.5
    said = [rng.choice((_plain, _pair, _cause))(rng, scene, is_happy) for _ in range(rng.randint(2, 4))]
    return {"text": f"{TODAY} {_act(fact, rng.choice(VERBS))} {' '.join(said)}"}


def _scene(rng: random.Random, split: str) -> tuple[tuple[Fact, Fact], Scene]:
    facts = _facts(rng, is_held_out=split == "holdout")
    return facts, Scene(facts[0][0], facts[1][0], facts[0][1], facts[1][1])


def _act(fact: Fact, verb: str) -> str:
    return f"{fact[0]} {verb} {fact[1]} {fact[2]}."


def _facts(rng: random.Random, *, is_held_out: bool) -> tuple[Fact, Fact]:
    """What the two people have to do with, and where; all words differ."""
    while True:
        (p, q), (o, o2), (at, at2) = rng.sample(PEOPLE, 2), rng.sample(OBJECTS, 2), rng.sample(PLACES, 2)
        first = rng.choice(RESERVED_IN_ORDER) if is_held_out else (p, o, at)
        second = (q, o2, at2)
        apart = all(a != b for a, b in zip(first, second, strict=True))
        if apart and second not in RESERVED and (is_held_out or first not in RESERVED):
            return first, second


# --- forms: each says that the person is happy, or is not ---------------------------------------------------------


def _plain(rng: random.Random, scene: Scene, is_happy: bool) -> str:
    return _sentence(_claim(rng, rng.choice([scene.person, scene.thing]), is_happy))


def _pair(rng: random.Random, scene: Scene, is_happy: bool) -> str:
    about = rng.choice([scene.person, scene.thing])
    one, other = rng.sample((MOODS if about in PEOPLE else QUALITIES)[is_happy], 2)
    return _sentence(f"{_subject(about)} {one} and {other}")


def _cause(rng: random.Random, scene: Scene, is_happy: bool) -> str:
    return _sentence(f"{_claim(rng, scene.person, is_happy)} because {_claim(rng, scene.thing, is_happy)}")


def _denial(rng: random.Random, scene: Scene, is_happy: bool) -> str:
    return _sentence(_claim(rng, rng.choice([scene.person, scene.thing]), is_happy, is_denied=True))


def _contrast(rng: random.Random, scene: Scene, is_happy: bool) -> str:
    """The main clause, or the one after "but", tells; the other claims the opposite, of a thing or of somebody."""
    about, against = rng.choice(
        [(scene.person, scene.thing), (scene.person, scene.other), (scene.thing, scene.other), (scene.thing, "they")]
    )
    # Who is called "they" must have been named.
    about, against = (against, about) if against == "they" else (about, against)
    told = _claim(rng, about, is_happy, is_denied=rng.random() < 0.25)
    denied = _claim(rng, against, not is_happy, is_denied=rng.random() < 0.25)
    if about == "they":
        return _sentence(rng.choice([f"although {denied}, {told}", f"{denied}, but {told}"]))
    return _sentence(rng.choice([f"although {denied}, {told}", f"{told}, although {denied}", f"{denied}, but {told}"]))


def _report(rng: random.Random, scene: Scene, is_happy: bool) -> str:
    """Somebody says it, and is right or wrong."""
    is_right = rng.random() < 0.5
    said = _claim(rng, rng.choice([scene.person, scene.thing]), is_happy == is_right)
    return f"{scene.other} says that {said}. {scene.other} is {VERDICTS[is_right]}."


def _two_things(rng: random.Random, scene: Scene, is_happy: bool) -> str:
    """One of two things is good; whose it is, only the acts say."""
    claims = [_claim(rng, scene.thing, is_happy), _claim(rng, scene.other_thing, not is_happy)]
    rng.shuffle(claims)
    return _sentence(" and ".join(claims))


FORMS: Mapping[str, tuple[float, Callable[[random.Random, Scene, bool], str]]] = {
    "plain": (0.5, _plain),
    "pair": (0.15, _pair),
    "cause": (0.1, _cause),
    "denial": (0.05, _denial),
    "contrast": (0.08, _contrast),
    "report": (0.06, _report),
    "two things": (0.06, _two_things),
}
"""Share of each form, and what it says. The words alone are right about the first three only."""


def _claim(rng: random.Random, about: str, is_good: bool, *, is_denied: bool = False) -> str:
    """`Mia is glad`, `the kites are not dull`: good or bad news, with or without a denial."""
    word = rng.choice((MOODS if about in PEOPLE else QUALITIES)[is_good != is_denied])
    denial = f" {rng.choice(DENIALS)}" if is_denied else ""
    return f"{_subject(about)}{denial} {word}"


def _subject(about: str) -> str:
    """`Mia is`, `the kites are`, `they are`."""
    if about in PEOPLE:
        return f"{about} is"
    return "they are" if about == "they" else f"the {about} are"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
