"""A village, told from a simulated state: the grammar behind the built-in world.

One grammar (`Story`) runs in two ways: `Draw` either picks at random and so writes a text, or follows a given text and
so checks it. Both add up the same cost in nats. So the entropy floor of the text is exact, and "does this sentence
follow" is the same code as "what may come next".

People do things: "Mia paints boats upstairs." The wording is what a model of half a million parameters learns from a
million tokens. What is bound stands side by side (name and verb, verb and object, object and place), a question is
answered in the words of the statement, and every word has a space before it, so it is one token wherever it stands.
"""

import dataclasses
import math
import random
import re
import zlib
from collections.abc import Callable, Iterable, Mapping

SHE = ("Mia", "Anna", "Lucy", "Eva", "Nora", "Lily", "Rosa", "Ella", "Zoe", "Ida")
HE = ("Tom", "Ben", "Max", "Leo", "Sam", "Jack", "Finn", "Paul", "Otto", "Karl")
PEOPLE = SHE + HE
VERBS = ("paints", "washes", "sells", "finds", "hides", "draws", "cleans", "counts", "buys", "moves")
OBJECTS = ("drums", "kites", "balls", "books", "lamps", "ropes", "cups", "hats",
           "coats", "bells", "dolls", "boats", "keys", "spoons", "maps", "boxes")  # fmt: skip
PLACES = ("upstairs", "downstairs", "outside", "indoors", "abroad", "nearby",
          "underground", "backstage", "ashore", "uptown")  # fmt: skip
HELPS = "helps"
TODAY, TITLE, THE_END, NOW = "Today", "A story about", " The end.", " Now"
WHAT, WHERE, WHO = " What does", " Where is", " Who is"

Fact = tuple[str, str, str]


def reserved(*fact: object, one_in: int = 20) -> bool:
    """Whether this fact is kept out of training; a hash decides, so no list is stored."""
    return zlib.crc32("|".join(map(str, fact)).encode()) % one_in == 0


RESERVED = frozenset((p, o, at) for p in PEOPLE for o in OBJECTS for at in PLACES if reserved(p, o, at))
RESERVED_IN_ORDER = sorted(RESERVED)


class Illegal(ValueError):
    """The text does not follow from the grammar and the state."""


class Redraw(Exception):
    """A reserved fact came true in a text that must not hold one."""


class Draw:
    """Writes a text by random choices, or follows a given one; `cost` is its nats, `end_cost` those of ending there."""

    def __init__(self, rng: random.Random | None = None, text: str = "") -> None:
        self.rng, self.rest = rng, text
        self.said: list[str] = []
        self.cost = self.end_cost = 0.0

    @property
    def text(self) -> str:
        return "".join(self.said)

    def pick(self, options: Mapping[str, float] | Iterable[str]) -> str:
        """One option, said aloud; equally likely unless weighted. "" is the end of the text."""
        odds = options if isinstance(options, Mapping) else dict.fromkeys(options, 1.0)
        if 0.0 in odds.values():
            odds = {option: weight for option, weight in odds.items() if weight > 0}
        if self.rng is not None:
            choice = self.rng.choices([*odds], [*odds.values()])[0]
        else:
            fits = [o for o in odds if (self.rest.startswith(o) if o else not self.rest)]
            if not fits:
                raise Illegal(f"after {self.text[-40:]!r} nothing reads {self.rest[:40]!r}")
            choice = max(fits, key=len)
            self.rest = self.rest[len(choice) :]
        nats = math.log(sum(odds.values()) / odds[choice])
        self.cost += nats
        if not choice:
            self.end_cost += nats
        self.said.append(choice)
        return choice

    def word(self, options: Mapping[str, float] | Iterable[str]) -> str:
        """One of these words, said with the space before it."""
        odds = options.items() if isinstance(options, Mapping) else ((word, 1.0) for word in options)
        return self.pick({f" {word}": weight for word, weight in odds})[1:]

    def say(self, text: str) -> None:
        """Text without a choice."""
        self.pick((text,))


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a story may contain: an opening sentence for each person, then rounds of news and recaps."""

    people: tuple[int, int]
    rounds: tuple[int, int]
    recaps: float = 0.0
    """Share of rounds that say again what is true, half of them after a question."""
    helpers: bool = True
    """Whether news may be that somebody helps somebody."""
    the_end: float = 0.0
    """How often the story closes with "The end."."""


SCENE = Shape(people=(2, 3), rounds=(4, 7), recaps=0.85)
TOLD = Shape(people=(2, 3), rounds=(0, 1))
ITEM = Shape(people=(3, 3), rounds=(0, 0))
HELP = Shape(people=(3, 3), rounds=(1, 1))
NEWS = Shape(people=(3, 3), rounds=(2, 2))
TALE = Shape(people=(1, 1), rounds=(1, 5), helpers=False)
ANY_TALE = Shape(people=(1, 1), rounds=(0, 99), helpers=False, the_end=0.5)


class Story:
    """The state of a small village and the grammar that tells about it.

    In a scene every verb, object and place is used once, so a word leads to the words that were said after it. In a
    tale of one person the object stays the same, and each verb and place only has to differ from the one before."""

    def __init__(self, draw: Draw, shape: Shape, *, cast: tuple[str, str] | None = None, training: bool = False):
        self.draw, self.shape, self.cast, self.training = draw, shape, cast, training
        self.does: dict[str, tuple[str, str]] = {}  # person -> verb and object (or the person helped)
        self.at: dict[str, str] = {}  # person -> place
        self.used: set[str] = set()  # verbs, objects and places
        self.news: list[str] = []  # who got something new to do, or to help with
        self.facts: set[Fact] = set()  # that were true at some time
        self.sentences = 0
        start = self._opening()
        done = 0
        while start not in (THE_END, ""):
            self._recap(start) if start in (NOW, WHAT, WHERE, WHO) else self._new(start)
            done += 1
            start = draw.pick(self._starts(done))
        if start:
            draw.pick(("",))
        self.ended, self.text = start == THE_END, draw.text
        self.cost, self.end_cost = draw.cost, draw.end_cost

    @property
    def is_tale(self) -> bool:
        return self.shape.people[1] == 1

    def facts_now(self) -> set[Fact]:
        return {(p, thing, self.at[p]) for p, (verb, thing) in self.does.items() if verb != HELPS}

    def line(self, person: str) -> str:
        """What a person does, as recaps and answers say it."""
        return f"Now {person} {' '.join(self.does[person])} {self.at[person]}."

    def _opening(self) -> str:
        """A sentence for each person; returns how the sentence after them starts."""
        fewest, most = self.shape.people
        start = " " + self.draw.word([self.cast[0]] if self.cast else PEOPLE)
        while start[1:] in PEOPLE and start[1:] not in self.at:
            self._act(start[1:])
            count = len(self.at)
            more = 0.0 if count == most else 1.0 if count < fewest else 0.5
            names = {f" {p}": 1.0 for p in PEOPLE if p not in self.at}
            start = self.draw.pick(shares((more, names), (1 - more, self._starts(0))))
        return start

    def _starts(self, done: int) -> dict[str, float]:
        """How the next sentence may start."""
        fewest, most = self.shape.rounds
        stop = 0.0 if done < fewest else 1 / (most - done + 1)
        names = ("She" if next(iter(self.at)) in SHE else "He",) if self.is_tale else self.at
        return shares(
            (stop * self.shape.the_end, {THE_END: 1.0}),
            (stop * (1 - self.shape.the_end), {"": 1.0}),
            ((1 - stop) * self.shape.recaps, {NOW: 3.0, WHAT: 1.0, WHERE: 1.0, WHO: 1.0}),
            ((1 - stop) * (1 - self.shape.recaps), {f" {name}": 1.0 for name in names}),
        )

    def _new(self, start: str) -> None:
        """Somebody does something else from now on."""
        person = start[1:] if start[1:] in self.at else next(iter(self.at))
        self._act(person)
        self.news.append(person)

    def _act(self, person: str) -> None:
        draw = self.draw
        helps = 2.0 * (self.shape.helpers and len(self.at) >= self.shape.people[0])
        taken = {self.at.get(person), self.does.get(person, ("",))[0]} if self.is_tale else self.used
        odds = {verb: 1.0 for verb in VERBS if verb not in taken}
        verb = draw.word(shares((1.0, odds), (helps if len(self.at) > 1 else 0.0, {HELPS: 1.0})))
        if verb == HELPS:
            thing = draw.word(p for p in self.at if p != person)
            place = self.at[thing]
        else:
            kept = self.cast[1] if self.cast else next(iter(self.does.values()), ("", ""))[1] if self.is_tale else ""
            thing = draw.word([kept] if kept else [o for o in OBJECTS if o not in self.used])
            place = draw.word(p for p in PLACES if p not in taken)
            self.used |= {verb, thing, place}
        draw.say(".")
        self.does[person], self.at[person] = (verb, thing), place
        self._note()

    def _note(self) -> None:
        """Counts the sentence and records the facts that are true after it."""
        self.sentences += 1
        new = self.facts_now() - self.facts
        if self.training and new & RESERVED:
            raise Redraw
        self.facts |= new

    def _recap(self, start: str) -> None:
        """Something true, with or without a question before it."""
        if start == WHO:
            place = self.draw.word(dict.fromkeys(self.at.values(), 1.0))
            self.draw.say("? Now")
            person = self.draw.word(p for p, at in self.at.items() if at == place)
        else:
            person = self.draw.word([*self.at])
            if start != NOW:
                self.draw.say(f" do? Now {person}" if start == WHAT else f"? Now {person}")
        self.draw.say(self.line(person).removeprefix(f"Now {person}"))
        self.sentences += 1


def shares(*groups: tuple[float, Mapping[str, float]]) -> dict[str, float]:
    """One set of odds in which each group keeps its weight, split as the group says."""
    every: dict[str, float] = {}
    for weight, odds in groups:
        if weight:
            total = sum(odds.values())
            every |= {option: weight * share / total for option, share in odds.items()}
    return every


def text_story(draw: Draw, *, training: bool = False) -> Story:
    """A text of the text track: a scene with questions, or a tale with its title."""
    if draw.pick({TODAY: 0.75, TITLE: 0.25}) == TODAY:
        return Story(draw, SCENE, training=training)
    return _about(draw, TALE, PEOPLE, OBJECTS, training=training)


def titled_story(draw: Draw, shape: Shape, *, cast: tuple[str, str], training: bool = False) -> Story:
    """A tale about this person and object, with the title that says so."""
    draw.say(TITLE)
    return _about(draw, shape, cast[:1], cast[1:], training=training)


def _about(draw: Draw, shape: Shape, people: Iterable[str], objects: Iterable[str], *, training: bool) -> Story:
    person = draw.word(people)
    draw.say(" and")
    thing = draw.word(objects)
    draw.say(f". {TODAY}")
    return Story(draw, shape, cast=(person, thing), training=training)


def shaped_story(draw: Draw, shape: Shape, *, training: bool = False) -> Story:
    """A story without a title."""
    draw.say(TODAY)
    return Story(draw, shape, training=training)


def random_for(*key: object) -> random.Random:
    """A generator of its own for every record, so that record i never depends on the others."""
    return random.Random("|".join(map(str, key)))


def until_allowed(write: Callable[[], Story]) -> Story:
    """Draws again until no reserved fact holds."""
    while True:
        try:
            return write()
        except Redraw:
            continue


def tell(rng: random.Random, shape: Shape, *, training: bool = False) -> Story:
    return until_allowed(lambda: shaped_story(Draw(rng), shape, training=training))


def replay(text: str, shape: Shape) -> Story:
    """Reads a text back into its state; raises `Illegal` where it does not follow."""
    return shaped_story(Draw(text=text), shape)


def renamed(story: Story, shape: Shape, rng: random.Random) -> Story:
    """The same story with people, objects and places exchanged, so that all its facts are reserved ones."""
    swap: dict[str, str] = {}
    while not swap:
        swap = _exchange(story, rng)
    return replay(re.sub(r"\w+", lambda word: swap.get(word[0], word[0]), story.text), shape)


def _exchange(story: Story, rng: random.Random) -> dict[str, str]:
    """New words for old ones, none of them in the story; empty where the draw led nowhere."""
    taken, swap = set(re.findall(r"\w+", story.text)), dict[str, str]()
    for fact in sorted(story.facts):
        open_slots = [i for i, word in enumerate(fact) if word not in swap]
        kept = [(i, swap[word]) for i, word in enumerate(fact) if word in swap]
        free = [
            new
            for new in RESERVED_IN_ORDER
            if not any(new[i] in taken for i in open_slots) and all(new[i] == word for i, word in kept)
        ]
        if not free:
            return {}
        new = rng.choice(free)
        swap |= zip(fact, new, strict=True)
        taken.update(new)
    return swap
