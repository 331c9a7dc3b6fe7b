"""Track `translation` of the built-in world: English sentences of the village, and the same in Talu.

Talu is invented. The verb comes first, then who does it, what it is done to, and where. Every noun has a class, heard
in its last vowel; the adjective after it takes that vowel, and so does the verb. Both nouns and adjectives have a
plural (`ki-`), verbs tell whether several people do it (`-ri`) and when (`-tu`: past, `-ne`: future). There are no
articles, and `wa` before the verb denies it:

    Mia and Tom painted small boats ashore.    soraritu Mia na Tom kirava kimina ula.
    Eva will not buy an old key.               wa kemene Eva gise tore.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.data.village import OBJECTS, PEOPLE, PLACES, VERBS, random_for, reserved

Tense = Literal["present", "past", "future"]


@dataclass(frozen=True)
class Verb:
    """An English verb: as a dictionary has it, of the past, and in Talu its root."""

    base: str
    past: str
    root: str


NOUNS: Mapping[str, str] = {
    "drums": "tama", "ropes": "nada", "boats": "rava", "maps": "fala", "books": "sefa",
    "balls": "buno", "lamps": "molo", "coats": "duro", "spoons": "zumo", "boxes": "boko",
    "kites": "lire", "cups": "kipe", "hats": "wese", "bells": "tine", "dolls": "pele", "keys": "gise",
}  # fmt: skip
"""The last vowel is the noun's class."""
WORKS: Mapping[str, Verb] = {
    "paints": Verb("paint", "painted", "sor"),
    "washes": Verb("wash", "washed", "lav"),
    "sells": Verb("sell", "sold", "ved"),
    "finds": Verb("find", "found", "hal"),
    "hides": Verb("hide", "hid", "kul"),
    "draws": Verb("draw", "drew", "rit"),
    "cleans": Verb("clean", "cleaned", "pur"),
    "counts": Verb("count", "counted", "nob"),
    "buys": Verb("buy", "bought", "kem"),
    "moves": Verb("move", "moved", "dov"),
}
ADJECTIVES: Mapping[str, str] = {
    "big": "gar", "small": "min", "red": "rus", "blue": "vel",
    "old": "tor", "new": "nel", "clean": "sil", "heavy": "bam",
}  # fmt: skip
WHERE_TO: Mapping[str, str] = {
    "upstairs": "uru", "downstairs": "ibi", "outside": "esa", "indoors": "oni", "abroad": "alu", "nearby": "eki",
    "underground": "omo", "backstage": "izu", "ashore": "ula", "uptown": "age",
}  # fmt: skip
PLURAL, SEVERAL, AND, NO = "ki", "ri", "na", "wa"
ENDINGS: Mapping[Tense, str] = {"present": "", "past": "tu", "future": "ne"}

NEW = frozenset((verb, thing) for verb in VERBS for thing in OBJECTS if reserved("talu", verb, thing, one_in=6))
"""What is done to what in the holdout only: its words are known, but not together."""


@dataclass(frozen=True)
class Sentence:
    """What a sentence says, in no language."""

    people: tuple[str, ...]
    verb: str
    tense: Tense
    is_denied: bool
    thing: str
    is_plural: bool
    adjective: str | None
    place: str | None


def translation(split: str, seed: int, i: int) -> dict[str, Any]:
    """A sentence in English (`source`) and in Talu (`target`). No pair of verb and noun is in both splits."""
    rng = random_for("translation", split, seed, i)
    while True:
        sentence = _draw(rng)
        if ((sentence.verb, sentence.thing) in NEW) == (split == "holdout"):
            return {"source": english(sentence), "target": talu(sentence)}


def _draw(rng: random.Random) -> Sentence:
    return Sentence(
        people=tuple(rng.sample(PEOPLE, 2 if rng.random() < 0.35 else 1)),
        verb=rng.choice(VERBS),
        tense=rng.choice([*ENDINGS]),
        is_denied=rng.random() < 0.25,
        thing=rng.choice(OBJECTS),
        is_plural=rng.random() < 0.5,
        adjective=rng.choice([*ADJECTIVES]) if rng.random() < 0.6 else None,
        place=rng.choice(PLACES) if rng.random() < 0.7 else None,
    )


def english(sentence: Sentence) -> str:
    """`Mia and Tom painted small boats ashore.`"""
    words = [" and ".join(sentence.people), _english_verb(sentence)]
    noun = sentence.thing if sentence.is_plural else _singular(sentence.thing)
    named = [sentence.adjective, noun] if sentence.adjective else [noun]
    if not sentence.is_plural:
        named = ["an" if named[0][0] in "aeiou" else "a", *named]
    words += named + ([sentence.place] if sentence.place else [])
    return f"{' '.join(words)}."


def _english_verb(sentence: Sentence) -> str:
    verb, is_one = WORKS[sentence.verb], len(sentence.people) == 1
    if sentence.tense == "future":
        return f"will {'not ' if sentence.is_denied else ''}{verb.base}"
    if sentence.is_denied:
        return f"{'did' if sentence.tense == 'past' else 'does' if is_one else 'do'} not {verb.base}"
    return verb.past if sentence.tense == "past" else sentence.verb if is_one else verb.base


def _singular(noun: str) -> str:
    return noun.removesuffix("es" if noun.endswith("xes") else "s")


def talu(sentence: Sentence) -> str:
    """`soraritu Mia na Tom kirava kimina ula.`"""
    noun = NOUNS[sentence.thing]
    vowel, plural = noun[-1], PLURAL if sentence.is_plural else ""
    several = SEVERAL if len(sentence.people) > 1 else ""
    verb = f"{WORKS[sentence.verb].root}{vowel}{several}{ENDINGS[sentence.tense]}"
    words = [NO, verb] if sentence.is_denied else [verb]
    words += [f" {AND} ".join(sentence.people), f"{plural}{noun}"]
    if sentence.adjective:
        words.append(f"{plural}{ADJECTIVES[sentence.adjective]}{vowel}")
    if sentence.place:
        words.append(WHERE_TO[sentence.place])
    return f"{' '.join(words)}."
