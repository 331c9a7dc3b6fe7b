"""The built-in world: the demo's and the tests' data, made from stories about a village in plain Python.

Every answer is computed, none is annotated. A fact (person, object, place) is reserved in one case of twenty: it is
never true in training text, and benchmark items and held-out questions are about reserved facts only.
"""

import dataclasses
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from pipelines.data.microworld_sentiment import review, sentiment
from pipelines.data.microworld_translation import translation
from pipelines.data.microworld_web import page
from pipelines.data.village import (
    ANY_TALE,
    HE,
    HELP,
    HELPS,
    ITEM,
    NEWS,
    OBJECTS,
    PEOPLE,
    PLACES,
    RESERVED,
    SHE,
    TALE,
    THE_END,
    TOLD,
    VERBS,
    WHAT,
    WHERE,
    WHO,
    Draw,
    Illegal,
    Story,
    random_for,
    renamed,
    reserved,
    tell,
    text_story,
    titled_story,
    until_allowed,
)

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
UNKNOWN = "I do not know."
LENGTHS = (3, 4, 5)
"""Sentences a writing request may ask for."""
FAULTS = ("length", "person", "object", "broken", "ending")

Split = Literal["train", "holdout"]
Record = dict[str, Any]


def floor_nats_per_byte(size: int = 1000, seed: int = 0, *, with_end: bool) -> float:
    """Entropy of the text track: no model gets below it but by leakage. `with_end` counts that a text ends there.

    A text's cost is less by the log of the share that redrawing keeps, estimated from as many unrestricted texts."""
    kept, cost, num_bytes = 0, 0.0, 0
    for i in range(size):
        kept += not text_story(Draw(random_for("floor", seed, i))).facts & RESERVED
        story = _story("holdout", seed, i)
        cost += story.cost if with_end else story.cost - story.end_cost
        num_bytes += len(story.text.encode())
    return (cost + size * math.log(kept / size)) / num_bytes


def _story(split: Split, seed: int, i: int, track: str = "text") -> Story:
    rng = random_for(track, split, seed, i)
    return until_allowed(lambda: text_story(Draw(rng), training=True))


def text(split: Split, seed: int, i: int) -> Record:
    return {"text": _story(split, seed, i).text}


# --- chat, writing requests, preferences and the checkable reward -------------------------------------------------


def question_chat(split: Split, seed: int, i: int, track: str = "question") -> Record:
    """A story and one to three questions; in the holdout all of its facts are reserved."""
    rng = random_for(track, split, seed, i)
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
    """A short story that keeps the wish exactly. It starts with its title, as tales of the text track do: a story
    without one would teach that texts which start with "Today" hold no questions."""
    shape = dataclasses.replace(TALE, rounds=(length - 1, length - 1), the_end=float(the_end))
    return until_allowed(lambda: titled_story(Draw(rng), shape, cast=(person, thing), training=True)).text


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
    story = _story(split, seed, i, "story chat")
    turns = [{"role": "user", "content": "Tell me something."}, {"role": "assistant", "content": story.text}]
    return {"messages": turns, "kind": "story"}


def chat(split: Split, seed: int, i: int) -> Record:
    return (question_chat, writing_chat, story_chat)[i % 3](split, seed, i)


def story_reward(completion: str, person: str, object: str, length: int) -> float:
    """0 unless the story is about this person and object and every sentence follows; then half for the number of
    sentences and half for ending in "The end.". The gate matters: without it one constant reply would score high."""
    try:
        story = titled_story(Draw(text=completion.strip()), ANY_TALE, cast=(person, object))
    except Illegal:
        return 0.0
    return 0.5 * (story.sentences == length) + 0.5 * story.ended


def preference(split: Split, seed: int, i: int) -> Record:
    """The chosen story keeps the wish; the rejected one is the same but for exactly one fault.

    Where two stories differ only in the fault, nothing else can be learnt from the pair."""
    asked, rng = wish(split, seed, i, "preferences"), random_for("pair", split, seed, i)
    person, thing, length = asked["person"], asked["object"], asked["length"]
    other_length = rng.choice([n for n in (2, *LENGTHS, 6) if n != length])
    title, *sentences = re.findall(r"[^.]+\.", tale(rng, person, thing, max(length, other_length), False))
    chosen, fault = "".join([title, *sentences[:length], THE_END]), FAULTS[i % len(FAULTS)]
    if fault == "length":
        rejected = "".join([title, *sentences[:other_length], THE_END])
    elif fault == "ending":
        rejected = "".join([title, *sentences[:length]])
    elif fault == "broken":
        rejected = _broken(chosen, rng)
    else:
        old, words = (person, PEOPLE) if fault == "person" else (thing, OBJECTS)
        rejected = _recast(chosen, (person, thing), old, words, rng)
    return asked | {"chosen": chosen, "rejected": rejected, "fault": fault}


def _recast(told: str, cast: tuple[str, str], old: str, words: Sequence[str], rng: random.Random) -> str:
    """The same story with another person or object, and without reserved facts."""
    while True:
        new = rng.choice([word for word in words if word != old])
        recast = told.replace(old, new)
        if new in HE:
            recast = recast.replace(" She ", " He ")
        elif new in SHE:
            recast = recast.replace(" He ", " She ")
        person, thing = (new if word == old else word for word in cast)
        if not titled_story(Draw(text=recast), ANY_TALE, cast=(person, thing)).facts & RESERVED:
            return recast


def _broken(told: str, rng: random.Random) -> str:
    """One sentence goes wrong: two neighbouring words exchanged, or the verb or the place of the one before again."""
    sentences = [sentence.split(" ") for sentence in told.split(". ")]
    k = rng.randrange(2, len(sentences) - 1)  # the first is the title
    j = rng.randrange(6)
    if j < 3:
        sentences[k][j], sentences[k][j + 1] = sentences[k][j + 1], sentences[k][j]
    else:
        again = -3 if j == 3 else -1
        sentences[k][again] = sentences[k - 1][again]
    return ". ".join(" ".join(words) for words in sentences)


# --- benchmark items: exact answers, four options, balanced positions ---------------------------------------------

KINDS = {
    "comprehension": ("verb", "object", "place"),
    "reasoning": ("who", "news", "helper"),
    "generation": ("what", "where"),
}
"""What is asked. `news`: the newest verb, where two of three people have changed theirs; `helper`: the place of one
who was only said to help another."""
TASKS = tuple(KINDS)
ITEMS = 400
"""Of each benchmark."""


def task_items(name: str, size: int = ITEMS, seed: int = 0) -> list[Record]:
    """Questions about new facts with computed answers: kinds in turn, and in turn the first, second and third person.

    So no rule about positions ("the last one mentioned") is right in more than a third."""
    return [task_item(name, i, seed) for i in range(size)]


def task_item(name: str, i: int, seed: int) -> Record:
    """The question of that number."""
    kinds = KINDS[name]
    return _item(kinds[i % len(kinds)], i // len(kinds) % 3, random_for("item", name, seed, i))


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


def chat_items(size: int = 400, seed: int = 0) -> list[Record]:
    """Held-out chat questions with the exact answer, for a checked-answer rate."""
    items = []
    for i in range(size):
        turns = question_chat("holdout", seed, i, "chat items")["messages"]
        items.append({"messages": turns[:1], "target": turns[1]["content"]})
    return items


def web(split: Split, seed: int, i: int) -> Record:
    return page(split, seed, i, _quiz)


def _quiz(rng: random.Random) -> str:
    """One of the first benchmark items, as a page that gives it away has it."""
    name = rng.choice(TASKS)
    item = task_item(name, rng.randrange(ITEMS), 0)
    return f"{item['prompt']}{item['target'].removesuffix('.')}."


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
        "web": Track("text", 4_000, 200, web),
        "reviews": Track("text", 12_000, 400, review),
        "sentiment": Track("labelled", 4_000, 800, sentiment),
        "translation": Track("pairs", 8_000, 800, translation),
    }
)


def generate(track: str, split: Split, size: int | None = None, seed: int = 0) -> Iterator[Record]:
    """The records of a track, the same for the same arguments on any machine; record i does not depend on `size`."""
    found = TRACKS[track]
    number = size if size is not None else found.train if split == "train" else found.holdout
    return (found.make(split, seed, i) for i in range(number))
