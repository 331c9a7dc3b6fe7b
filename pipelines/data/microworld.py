"""The village: the demo's and the tests' data, rendered from a simulated state in plain Python.

Every answer is computed, none is annotated. One grammar (`Story`) runs in two ways: `Draw` either picks at random and
so writes a text, or follows a given text and so checks it. Both add up the same cost in nats. So the entropy floor of
the text is exact, and "does this sentence follow" is the same code as "what may come next".

People do things: "Mia paints boats upstairs." A fact (person, object, place) is reserved in one case of twenty: it is
never true in training text, and benchmark items ask about it. The wording is what a model of half a million parameters
learns from a million tokens. What is bound stands side by side (name and verb, verb and object, object and place), a
question is answered in the words of the statement, and every word has a space before it, so it is one token anywhere.
"""

import dataclasses
import math
import random
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

SHE = ("Mia", "Anna", "Lucy", "Eva", "Nora", "Lily", "Rosa", "Ella", "Zoe", "Ida")
HE = ("Tom", "Ben", "Max", "Leo", "Sam", "Jack", "Finn", "Paul", "Otto", "Karl")
PEOPLE = SHE + HE
VERBS = ("paints", "washes", "sells", "finds", "hides", "draws", "cleans", "counts", "buys", "moves")
OBJECTS = ("drums", "kites", "balls", "books", "lamps", "ropes", "cups", "hats",
           "coats", "bells", "dolls", "boats", "keys", "spoons", "maps", "boxes")  # fmt: skip
PLACES = ("upstairs", "downstairs", "outside", "indoors", "abroad", "nearby",
          "underground", "backstage", "ashore", "uptown")  # fmt: skip
HELPS = "helps"
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
TODAY, TITLE, THE_END, NOW = "Today", "A story about", " The end.", " Now"
WHAT, WHERE, WHO = " What does", " Where is", " Who is"
UNKNOWN = "I do not know."
LENGTHS = (3, 4, 5)
"""Sentences a writing request may ask for."""
FAULTS = ("length", "person", "object", "broken", "ending")

Split = Literal["train", "holdout"]
Record = dict[str, Any]
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
    """Writes a text by random choices, or follows a given one; `cost` is its nats."""

    def __init__(self, rng: random.Random | None = None, text: str = "") -> None:
        self.rng, self.rest = rng, text
        self.said: list[str] = []
        self.cost = 0.0

    @property
    def text(self) -> str:
        return "".join(self.said)

    def pick(self, options: Mapping[str, float] | Iterable[str]) -> str:
        """One option, said aloud; equally likely unless weighted. "" is the end of the text."""
        odds = options if isinstance(options, Mapping) else dict.fromkeys(options, 1.0)
        odds = {option: weight for option, weight in odds.items() if weight > 0}
        if self.rng is not None:
            choice = self.rng.choices(list(odds), list(odds.values()))[0]
        else:
            fits = [o for o in odds if (self.rest.startswith(o) if o else not self.rest)]
            if not fits:
                raise Illegal(f"after {self.text[-40:]!r} nothing reads {self.rest[:40]!r}")
            choice = max(fits, key=len)
            self.rest = self.rest[len(choice) :]
        self.cost += math.log(sum(odds.values()) / odds[choice])
        self.said.append(choice)
        return choice

    def word(self, options: Mapping[str, float] | Iterable[str]) -> str:
        """One of these words, said with the space before it."""
        odds = options if isinstance(options, Mapping) else dict.fromkeys(options, 1.0)
        return self.pick({f" {word}": weight for word, weight in odds.items()})[1:]

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

    In one story every verb is used once, and so is every object and place unless it is a tale of one person: there the
    object of the cast stays the same, and the place only has to differ from the last."""

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
        self.ended, self.text, self.cost = start == THE_END, draw.text, draw.cost

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
        odds = {verb: 1.0 / len(VERBS) for verb in VERBS if verb not in self.used}
        verb = draw.word(shares((1.0, odds), (helps if len(self.at) > 1 else 0.0, {HELPS: 1.0})))
        if verb == HELPS:
            thing = draw.word(p for p in self.at if p != person)
            place = self.at[thing]
        else:
            kept = self.cast[1] if self.cast else next(iter(self.does.values()), ("", ""))[1] if self.is_tale else ""
            thing = draw.word([kept] if kept else [o for o in OBJECTS if o not in self.used])
            last = {self.at.get(person)} if self.is_tale else self.used
            place = draw.word(p for p in PLACES if p not in last)
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
    return {o: weight * w / sum(odds.values()) for weight, odds in groups if weight for o, w in odds.items()}


def text_story(draw: Draw, *, training: bool = False) -> Story:
    """A text of the text track: a scene with questions, or a tale with its title."""
    if draw.pick({TODAY: 0.75, TITLE: 0.25}) == TODAY:
        return Story(draw, SCENE, training=training)
    person = draw.word(PEOPLE)
    draw.say(" and")
    thing = draw.word(OBJECTS)
    draw.say(f". {TODAY}")
    return Story(draw, TALE, cast=(person, thing), training=training)


def shaped_story(draw: Draw, shape: Shape, *, cast: tuple[str, str] | None = None, training: bool = False) -> Story:
    """A story without a title."""
    draw.say(TODAY)
    return Story(draw, shape, cast=cast, training=training)


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


def tell(rng: random.Random, shape: Shape, *, cast: tuple[str, str] | None = None, training: bool = False) -> Story:
    return until_allowed(lambda: shaped_story(Draw(rng), shape, cast=cast, training=training))


def replay(text: str, shape: Shape, *, cast: tuple[str, str] | None = None) -> Story:
    """Reads a text back into its state; raises `Illegal` where it does not follow."""
    return shaped_story(Draw(text=text), shape, cast=cast)


def floor_nats_per_byte(size: int = 1000, seed: int = 0) -> float:
    """Entropy of the text track, the end of each text included: no model gets below it but by leakage.

    A text's cost is less by the log of the share that redrawing keeps, estimated from as many unrestricted texts."""
    kept, cost, num_bytes = 0, 0.0, 0
    for i in range(size):
        kept += not text_story(Draw(random_for("floor", seed, i))).facts & RESERVED
        story = _story("holdout", seed, i)
        cost += story.cost
        num_bytes += len(story.text.encode())
    return (cost + size * math.log(kept / size)) / num_bytes


def _story(split: Split, seed: int, i: int) -> Story:
    rng = random_for("text", split, seed, i)
    return until_allowed(lambda: text_story(Draw(rng), training=True))


def text(split: Split, seed: int, i: int) -> Record:
    return {"text": _story(split, seed, i).text}


# --- chat, writing requests, preferences and the checkable reward -------------------------------------------------


def question_chat(split: Split, seed: int, i: int) -> Record:
    """A story and one to three questions; in the holdout all of its facts are reserved."""
    rng = random_for("question", split, seed, i)
    story = tell(rng, TOLD, training=split == "train")
    if split == "holdout":
        story = renamed(story, TOLD, rng)
    asked = [(f"{ask}?", story.line(p)) for p in story.at for ask in (f"What does {p} do", f"Where is {p}")]
    asked += [(f"Who is {at}?", story.line(p)) for p, at in story.at.items() if [*story.at.values()].count(at) == 1]
    rng.shuffle(asked)
    if rng.random() < 0.1:
        asked.insert(0, (f"Where is {rng.choice([p for p in PEOPLE if p not in story.at])}?", UNKNOWN))
    turns = []
    for question, answer in asked[: rng.randint(1, 3)]:
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    turns[0]["content"] = f"{story.text} {turns[0]['content']}"
    return {"messages": turns, "kind": "question"}


def wish(split: Split, seed: int, i: int, track: str = "prompts") -> Record:
    """A wish for a story. One (person, object, length) in six is asked only in the holdout."""
    rng = random_for(track, split, seed, i)
    while True:
        person, thing, length = rng.choice(PEOPLE), rng.choice(OBJECTS), rng.choice(LENGTHS)
        if reserved(person, thing, length, one_in=6) == (split == "holdout"):
            break
    prompt = f"Write a story about {person} and {thing} in {NUMBERS[length]} sentences."
    return {"prompt": prompt, "person": person, "object": thing, "length": length}


def tale(rng: random.Random, person: str, thing: str, length: int, the_end: bool) -> str:
    """A short story that keeps the wish exactly."""
    shape = dataclasses.replace(TALE, rounds=(length - 1, length - 1), the_end=float(the_end))
    return tell(rng, shape, cast=(person, thing), training=True).text


def writing_chat(split: Split, seed: int, i: int) -> Record:
    """A wish and a story. Each half of the wish (length, ending) is broken half of the time: room for DPO and PPO."""
    asked, rng = wish(split, seed, i, "writing"), random_for("tale", split, seed, i)
    length = asked["length"]
    told = length if rng.random() < 0.5 else rng.choice([n for n in (2, *LENGTHS, 6) if n != length])
    answer = tale(rng, asked["person"], asked["object"], told, rng.random() < 0.5)
    turns = [{"role": "user", "content": asked.pop("prompt")}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "kind": "writing"} | asked


def story_chat(split: Split, seed: int, i: int) -> Record:
    """A plain text of the text track on request, so that SFT does not unlearn pretraining."""
    story = _story(split, f"chat {seed}", i)
    turns = [{"role": "user", "content": "Tell me something."}, {"role": "assistant", "content": story.text}]
    return {"messages": turns, "kind": "story"}


def chat(split: Split, seed: int, i: int) -> Record:
    return (question_chat, writing_chat, question_chat, story_chat)[i % 4](split, seed, i)


def story_reward(completion: str, person: str, object: str, length: int) -> float:
    """0 unless the story is about this person and object and every sentence follows; then half for the number of
    sentences and half for ending in "The end.". The gate matters: without it one constant reply would score high."""
    try:
        story = replay(completion.strip(), ANY_TALE, cast=(person, object))
    except Illegal:
        return 0.0
    return 0.5 * (story.sentences == length) + 0.5 * story.ended


def preference(split: Split, seed: int, i: int) -> Record:
    """The chosen story keeps the wish; the rejected one has exactly one fault."""
    asked, rng = wish(split, seed, i, "preferences"), random_for("pair", split, seed, i)
    person, thing, length = asked["person"], asked["object"], asked["length"]
    chosen, rejected, fault = tale(rng, person, thing, length, True), "", FAULTS[i % len(FAULTS)]
    if fault == "broken":
        rejected = _broken(tale(rng, person, thing, length, True), rng)
    elif fault == "ending":
        rejected = tale(rng, person, thing, length, False)
    else:
        other = rng.choice([p for p in PEOPLE if p != person]) if fault == "person" else person
        item = rng.choice([o for o in OBJECTS if o != thing]) if fault == "object" else thing
        told = rng.choice([n for n in (2, *LENGTHS, 6) if n != length]) if fault == "length" else length
        rejected = tale(rng, other, item, told, True)
    return asked | {"chosen": chosen, "rejected": rejected, "fault": fault}


def _broken(told: str, rng: random.Random) -> str:
    """Two neighbouring words of one sentence exchanged."""
    parts = told.split(". ")
    k = rng.randrange(len(parts) - 1)
    words = parts[k].split(" ")
    j = rng.randrange(len(words) - 1)
    words[j], words[j + 1] = words[j + 1], words[j]
    parts[k] = " ".join(words)
    return ". ".join(parts)


# --- benchmark items: exact answers, four options, balanced positions ---------------------------------------------

KINDS = {
    "comprehension": ("verb", "object", "place"),
    "reasoning": ("who", "news", "helper"),
    "generation": ("what", "where"),
}
"""What is asked. `news`: the newest verb, two of three people having changed theirs; `helper`: where somebody is who was only said to help another."""
TASKS = tuple(KINDS)


def task_items(name: str, size: int = 400, seed: int = 0) -> list[Record]:
    """Questions about new facts with computed answers: kinds in turn, and in turn the first, second and third person.

    So no rule about positions ("the last one mentioned") is right in more than a third."""
    kinds = KINDS[name]
    return [
        _item(kinds[i % len(kinds)], i // len(kinds) % 3, random_for("item", name, seed, i)) for i in range(size)
    ]


def _item(kind: str, number: int, rng: random.Random) -> Record:
    """A question as pretraining text asks it; the target is one word, or the whole answer.

    The wrong options come from the story as far as it has them, so being mentioned is not enough."""
    story, person = _story_for(kind, number, rng)
    place, line = story.at[person], story.line(person)
    ask = {"who": f"{WHO} {place}?", "where": f"{WHERE} {person}?", "helper": f"{WHERE} {person}?"}
    prompt = story.text + ask.get(kind, f"{WHAT} {person} do?")
    verb, thing = story.does[person]
    answer, family = {"verb": (verb, VERBS), "news": (verb, VERBS), "object": (thing, OBJECTS)}.get(
        kind, (person, PEOPLE) if kind == "who" else (place, PLACES)
    )
    mentioned = [word for word in dict.fromkeys(re.findall(r"\w+", story.text)) if word in family and word != answer]
    unsaid = [word for word in family if word not in mentioned and word != answer]
    options = [answer, *mentioned[-3:], *rng.sample(unsaid, max(0, 3 - len(mentioned)))]
    rng.shuffle(options)
    target = f" {line}"
    if kind not in KINDS["generation"]:
        prompt, target = f"{prompt} {line[: line.index(f' {answer}')]}", f" {answer}"
    return {"prompt": prompt, "options": options, "answer": options.index(answer), "target": target, "kind": kind}


def _story_for(kind: str, number: int, rng: random.Random) -> tuple[Story, str]:
    """Three people whose facts are all new, and the one to ask about; with news, two of them have some."""
    while True:
        story = tell(rng, {"news": NEWS, "helper": HELP}.get(kind, ITEM))
        newest_first = [*reversed(story.news), *(p for p in story.at if p not in story.news)]
        person = (newest_first if kind == "news" else [*story.at])[number]
        helping = [p for p, (verb, _) in story.does.items() if verb == HELPS]
        if helping == ([person] if kind == "helper" else []) and len(set(story.news)) == len(story.news):
            told = renamed(story, story.shape, rng)
            return told, [*told.at][[*story.at].index(person)]


def renamed(story: Story, shape: Shape, rng: random.Random) -> Story:
    """The same story with people, objects and places exchanged, so that all its facts are reserved ones."""
    said = re.findall(r"\w+", story.text)
    while True:
        swap: dict[str, str] = {}
        for person, thing, place in sorted(story.facts):
            fits = [
                new
                for new in RESERVED_IN_ORDER
                if all(
                    swap[old] == word if old in swap else word not in said and word not in swap.values()
                    for old, word in zip((person, thing, place), new, strict=True)
                )
            ]
            if not fits:
                break
            swap |= zip((person, thing, place), rng.choice(fits), strict=True)
        else:
            return replay(re.sub(r"\w+", lambda word: swap.get(word[0], word[0]), story.text), shape)


def chat_items(size: int = 400, seed: int = 0) -> list[Record]:
    """Held-out chat questions with the exact answer, for a checked-answer rate."""
    items = []
    for i in range(size):
        turns = question_chat("holdout", f"items {seed}", i)["messages"]
        items.append({"messages": turns[:1], "target": turns[1]["content"]})
    return items


# --- the tracks ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Track:
    """One kind of record: its format, its default sizes, and how record i is made."""

    format: str
    train: int
    holdout: int
    make: Callable[[Split, int, int], Record]


TRACKS: Mapping[str, Track] = MappingProxyType(
    {
        "text": Track("text", 30_000, 1_000, text),
        "chat": Track("chat", 4_000, 400, chat),
        "preferences": Track("preference", 1_500, 300, preference),
        "prompts": Track("prompt", 2_000, 400, wish),
    }
)


def generate(track: str, split: Split, size: int | None = None, seed: int = 0) -> Iterator[Record]:
    """The records of a track, the same for the same arguments on any machine; record i does not depend on `size`."""
    found = TRACKS[track]
    number = size if size is not None else found.train if split == "train" else found.holdout
    return (found.make(split, seed, i) for i in range(number))
