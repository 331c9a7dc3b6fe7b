"""The village: the demo's and the tests' data, rendered from a simulated state in plain Python.

Every answer is computed, none is annotated. One grammar (`Story`) runs in two ways: `Draw` either picks at random and
so writes a text, or follows a given text and so checks it. Both add up the same cost in nats. So the entropy floor of
the text is exact, and "does this sentence follow" is the same code as "what may come next".

A fact (person, object, place) *holds* while both are in the place. One fact in twenty is reserved: it never holds in
training text, and benchmark items ask about it. All words are said with the space before them, so that a word is one
token wherever it stands, and every question is answered in the words in which pretraining text answers it.
"""

import dataclasses
import math
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

SHE = ("Mia", "Anna", "Lucy", "Eva", "Nora", "Lily", "Rosa", "Ella", "Zoe", "Ida")
HE = ("Tom", "Ben", "Max", "Leo", "Sam", "Jack", "Finn", "Paul", "Otto", "Karl")
PEOPLE = SHE + HE
PLACES = ("garden", "kitchen", "barn", "forest", "market", "school", "park", "tower", "cave", "mill")
OBJECTS = ("drum", "kite", "ball", "book", "lamp", "rope", "cup", "hat",
           "coat", "bell", "doll", "boat", "key", "spoon", "map", "box")  # fmt: skip
COLOURS = ("red", "blue", "green", "white", "black", "yellow")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
TODAY, TITLE, THE_END = "Today", "A story about", " The end."
WHERE, WHO, COLOUR, NOW = " Where is", " Who has", " What colour is", " Now"
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
    """What a story may contain. Rounds are events or recaps; a person comes with an object."""

    people: tuple[int, int]
    rounds: tuple[int, int]
    recaps: float
    """Share of rounds that say again what is true, half of them after a question."""
    the_end: float = 0.0
    """How often the story closes with "The end."."""


SCENE = Shape(people=(2, 3), rounds=(4, 7), recaps=0.75)
TOLD = Shape(people=(2, 3), rounds=(0, 2), recaps=0.0)
ITEM = Shape(people=(3, 3), rounds=(0, 2), recaps=0.0)
TALE = Shape(people=(1, 1), rounds=(1, 4), recaps=0.0)
ANY_TALE = Shape(people=(1, 1), rounds=(0, 99), recaps=0.0, the_end=0.5)


class Story:
    """The state of a small village and the grammar that tells about it."""

    def __init__(self, draw: Draw, shape: Shape, *, cast: tuple[str, str] | None = None, training: bool = False):
        self.draw, self.training = draw, training
        self.at: dict[str, str] = {}  # person -> place
        self.lies: dict[str, str] = {}  # object -> place, or the person who holds it
        self.colour: dict[str, str] = {}
        self.touched: set[str] = set()  # people who walked, objects that changed hands
        self.facts: set[Fact] = set()  # that held at some time
        self.sentences = 0
        self.actor: str | None = None  # who the pronoun stands for
        start = self._setup(shape, cast)
        done = 0
        while start not in (THE_END, ""):
            self._recap(start) if start in (WHERE, WHO, COLOUR, NOW) else self._event(self._subjects()[start])
            done += 1
            start = draw.pick(self._starts(shape, done))
        if start:
            draw.pick(("",))
        self.ended, self.text, self.cost = start == THE_END, draw.text, draw.cost

    def where(self, thing: str) -> str:
        """The place of a person or an object."""
        spot = self.lies.get(thing, thing)
        return self.at.get(spot, spot)

    def holds(self, person: str) -> list[str]:
        return [thing for thing, spot in self.lies.items() if spot == person]

    def facts_now(self) -> set[Fact]:
        return {(p, o, at) for o in self.lies for p, at in self.at.items() if self.where(o) == at}

    def _setup(self, shape: Shape, cast: tuple[str, str] | None) -> str:
        """Who is where and what is there; returns how the sentence after it starts."""
        draw, (fewest, most) = self.draw, shape.people
        start = " " + draw.word([cast[0]] if cast else PEOPLE)
        while start[1:] in PEOPLE and start[1:] not in self.at:
            person = start[1:]
            draw.say(" is in the")
            self.at[person] = self._place(dict.fromkeys(PLACES, 1.0))
            self._note()
            self._thing(person, [cast[1]] if cast else [o for o in OBJECTS if o not in self.lies])
            count = len(self.at)
            more = 0.0 if count == most else 1.0 if count < fewest else 0.5
            names = {f" {p}": 1.0 for p in PEOPLE if p not in self.at}
            start = draw.pick(shares((more, names), (1 - more, self._starts(shape, 0))))
        return start

    def _thing(self, person: str, things: Sequence[str]) -> None:
        """An object: with the person, or lying somewhere."""
        draw = self.draw
        held = draw.pick((f" {person} has a", " A")) != " A"
        colour = draw.word(c for c in COLOURS if c not in self.colour.values())
        thing = draw.word(things)
        self.colour[thing] = colour
        if held:
            draw.say(".")
            self.lies[thing] = person
        else:
            draw.say(" is in the")
            self.lies[thing] = self._place({p: 3.0 if p in self.at.values() else 1.0 for p in PLACES})
        self._note()

    def _starts(self, shape: Shape, done: int) -> dict[str, float]:
        """How the next sentence may start."""
        fewest, most = shape.rounds
        stop = 0.0 if done < fewest else 1 / (most - done + 1)
        recaps = {WHERE: 2.0, WHO: 1.0, COLOUR: 1.0, NOW: 4.0}
        return shares(
            (stop * shape.the_end, {THE_END: 1.0}),
            (stop * (1 - shape.the_end), {"": 1.0}),
            ((1 - stop) * shape.recaps, recaps),
            ((1 - stop) * (1 - shape.recaps), dict.fromkeys(self._subjects(), 1.0)),
        )

    def _subjects(self) -> dict[str, str]:
        """How each person is named now: whoever acted last is a pronoun."""
        return {f" {p}" if p != self.actor else " She" if p in SHE else " He": p for p in self.at}

    def _place(self, odds: Mapping[str, float]) -> str:
        place = self.draw.word(odds)
        self.draw.say(".")
        return place

    def _note(self) -> None:
        """Counts the sentence and records the facts that hold after it."""
        self.sentences += 1
        new = self.facts_now() - self.facts
        if self.training and new & RESERVED:
            raise Redraw
        self.facts |= new

    def _event(self, who: str) -> None:
        draw, here, held = self.draw, self.at[who], self.holds(who)
        near = [thing for thing, spot in self.lies.items() if spot == here]
        others = [p for p, spot in self.at.items() if spot == here and p != who]
        verb = draw.pick({" goes to the": 1.0, " takes the": 2.0 * bool(near), " drops the": 0.7 * bool(held),
                          " gives the": 2.0 * bool(held and others)})  # fmt: skip
        if verb == " goes to the":
            known = {*self.at.values(), *self.lies.values()}
            self.at[who] = self._place({p: 3.0 if p in known else 0.5 for p in PLACES if p != here})
            self.touched.add(who)
        else:
            thing = draw.word(near if verb == " takes the" else held)
            self.lies[thing] = who if verb == " takes the" else here
            if verb == " gives the":
                draw.say(" to")
                self.lies[thing] = draw.word(others)
            draw.say(".")
            self.touched.add(thing)
        self.actor = who
        self._note()

    def _recap(self, start: str) -> None:
        """Something true, with or without a question before it."""
        draw = self.draw
        if start == NOW:
            subjects = [*self.at, *(f"the {thing}" for thing in self.lies)]
            subject = draw.word(subjects).removeprefix("the ")
            held = self.holds(subject)
            verb = draw.pick({" is in the": 1.0, " is": float(subject in self.lies), " has the": float(bool(held))})
            if verb == " has the":
                draw.word(held)
            else:
                draw.say(f" {self.where(subject) if verb == ' is in the' else self.colour[subject]}")
            draw.say(".")
        else:
            asked = {WHERE: [*self.at], WHO: [], COLOUR: []}[start] + [f"the {thing}" for thing in self.lies]
            subject = draw.word(asked).removeprefix("the ")
            draw.say(f"? {self.answer(start, subject)}")
        self.sentences += 1
        self.actor = None

    def answer(self, question: str, subject: str) -> str:
        """The true answer, in the words in which a recap says it."""
        named = subject if subject in self.at else f"the {subject}"
        if question == WHERE:
            return f"Now {named} is in the {self.where(subject)}."
        if question == COLOUR:
            return f"Now {named} is {self.colour[subject]}."
        holder = self.lies[subject]
        return f"Now {holder if holder in self.at else 'nobody'} has {named}."


def shares(*groups: tuple[float, Mapping[str, float]]) -> dict[str, float]:
    """One set of odds in which each group keeps its weight, split as the group says."""
    return {o: weight * w / sum(odds.values()) for weight, odds in groups if weight for o, w in odds.items()}


def text_story(draw: Draw, *, training: bool = False) -> Story:
    """A text of the text track: a scene with questions, or a tale with its title."""
    if draw.pick({TODAY: 0.7, TITLE: 0.3}) == TODAY:
        return Story(draw, SCENE, training=training)
    person = draw.word(PEOPLE)
    draw.say(" and a")
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


def _questions(story: Story, rng: random.Random) -> list[tuple[str, str]]:
    """Questions about the end of a story, each with its exact answer, in random order."""
    asked = [(WHERE, p) for p in story.at] + [(ask, o) for o in story.lies for ask in (WHERE, WHO, COLOUR)]
    rng.shuffle(asked)
    return [(f"{ask[1:]} {x if x in story.at else f'the {x}'}?", story.answer(ask, x)) for ask, x in asked]


def question_chat(split: Split, seed: int, i: int) -> Record:
    """A story and one to three questions. Holdout stories end with a reserved fact."""
    rng = random_for("question", split, seed, i)
    story = tell(rng, TOLD, training=split == "train")
    while split == "holdout" and not story.facts_now() & RESERVED:
        story = tell(rng, TOLD)
    asked = _questions(story, rng)
    if rng.random() < 0.1:
        other = rng.choice([o for o in OBJECTS if o not in story.lies])
        asked.insert(0, (f"Where is the {other}?", UNKNOWN))
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
    prompt = f"Write a story about {person} and a {thing} in {NUMBERS[length]} sentences."
    return {"prompt": prompt, "person": person, "object": thing, "length": length}


def tale(rng: random.Random, person: str, thing: str, length: int, the_end: bool) -> str:
    """A short story that keeps the wish exactly."""
    shape = dataclasses.replace(TALE, rounds=(length - 2, length - 2), the_end=float(the_end))
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
    "comprehension": ("person", "thing", "colour", "holder"),
    "reasoning": ("held", "moved"),
    "generation": ("person", "thing", "colour", "holder"),
}
TASKS = tuple(KINDS)


def task_items(name: str, size: int = 400, seed: int = 0) -> list[Record]:
    """Questions about new facts with computed answers, kinds in turn.

    Drawn so that no rule about positions is right in more than a third: not "the last mentioned" nor the one before
    nor any earlier, not the first nor second, not the most frequent. Within one kind 40 % is the limit."""
    items: list[Record] = []
    counts, i, slack = Counter[tuple[str, str, int]](), 0, 1.0
    kinds = KINDS[name]
    while len(items) < size:
        kind = kinds[len(items) % len(kinds)]
        rng = random_for("item", name, kind, seed, i)
        i, slack = i + 1, slack + 0.002  # so that an unlucky draw ends
        drawn = _drawn(kind, rng)
        if drawn is None:
            continue
        story, fact, ranks = drawn
        limits = {("all", *rank): size / 3 + slack for rank in ranks} | {
            (kind, *rank): 0.4 * size / len(kinds) + slack for rank in ranks
        }
        if all(counts[key] + 1 <= limit for key, limit in limits.items()):
            counts.update(limits.keys())
            items.append(_item(name, kind, _renamed(story, fact, rng), rng))
    return items


def _drawn(kind: str, rng: random.Random) -> tuple[Story, Fact, list[tuple[str, int]]] | None:
    """A story, a fact at its end that can be asked about, and where the answer stands; None where there is none."""
    story = tell(rng, dataclasses.replace(ITEM, rounds=(1, 2)) if kind == "moved" else ITEM)
    facts = [fact for fact in sorted(story.facts_now()) if kind in _kinds(story, fact)]
    if not facts:
        return None
    fact = rng.choice(facts)
    _, answer, candidates = _asked(story, kind, fact)
    first, last = list(dict.fromkeys(candidates)), list(dict.fromkeys(reversed(candidates)))
    ranks = [("first", min(first.index(answer), 2)), ("last", min(last.index(answer), 2))]
    if len(first) < 3 or (kind in ("colour", "holder") and ranks[0][1] + ranks[1][1] != 2):
        return None
    if all(candidates.count(answer) > candidates.count(other) for other in first if other != answer):
        ranks.append(("often", 0))
    return story, fact, ranks


def _asked(story: Story, kind: str, fact: Fact) -> tuple[str, str, list[str]]:
    """The start of the question, the answer, and every mention of a word that could be the answer."""
    person, thing, _ = fact
    ask, answer, family = {
        "colour": (COLOUR, story.colour[thing], COLOURS),
        "holder": (WHO, person, PEOPLE),
    }.get(kind, (WHERE, story.where(thing), PLACES))
    return ask, answer, [word for word in re.findall(r"\w+", story.text) if word in family]


def _renamed(story: Story, fact: Fact, rng: random.Random) -> tuple[Story, Fact]:
    """The same story with a person, an object and a place exchanged for those of a reserved fact."""
    new = rng.choice([other for other in RESERVED_IN_ORDER if (other[0] in SHE) == (fact[0] in SHE)])
    swap = dict(zip(fact + new, new + fact, strict=True))
    return replay(re.sub(r"\w+", lambda word: swap.get(word[0], word[0]), story.text), ITEM), new


def _item(name: str, kind: str, told: tuple[Story, Fact], rng: random.Random) -> Record:
    """The question as pretraining text asks it; the target is one word, or in `generation` the whole sentence.

    The options come from the story as far as it has them: being mentioned is not enough."""
    story, fact = told
    ask, answer, candidates = _asked(story, kind, fact)
    subject = fact[0] if kind == "person" else fact[1]
    others = [word for word in dict.fromkeys(candidates) if word != answer]
    others = rng.sample(others, min(3, len(others)))
    family = {COLOUR: COLOURS, WHO: PEOPLE}.get(ask, PLACES)
    others += rng.sample([word for word in family if word not in candidates], 3 - len(others))
    options = [answer, *others]
    rng.shuffle(options)
    prompt = f"{story.text}{ask} {subject if kind == 'person' else f'the {subject}'}?"
    sentence = story.answer(ask, subject)
    target = f" {sentence}"
    if name != "generation":
        prompt, target = f"{prompt} {sentence[: sentence.index(f' {answer}')]}", f" {answer}"
    return {"prompt": prompt, "options": options, "answer": options.index(answer), "target": target, "kind": kind}


def _kinds(story: Story, fact: Fact) -> list[str]:
    """What may be asked about a fact: read off (stated once, never touched), or worked out."""
    person, thing, place = fact
    holder = story.lies[thing]
    if thing in story.touched or person in story.touched:
        return ["moved"] * (holder == person)
    if holder == person:
        return ["person", "colour", "holder", "held"]
    return ["person", "colour", *(["thing"] if holder == place else [])]


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
