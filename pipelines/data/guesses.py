"""What rows could be, by the names and kinds of their columns: format, layout and the columns to map."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.data.blocks import Item, Row
from pipelines.data.formats import Unusable, normaliser
from pipelines.data.layouts import Joined, join
from pipelines.recipe.data import Format, Layout

JUDGED = 500
"""Rows that a guess is tried on."""
AGREEING = 0.9
"""Share of a column's values by which it is taken for text or for a list: a few bad rows say nothing of the others."""

# Names that columns have in data that people publish, the likeliest first.
_TEXT = ("text", "content", "body", "document", "article", "story", "passage", "raw_content", "code", "sentence")
_ASKS = ("prompt", "instruction", "question", "query", "input", "inputs", "user", "context", "problem")
_ANSWERS = (
    "completion",
    "response",
    "output",
    "answer",
    "answers",
    "target",
    "targets",
    "assistant",
    "solution",
    "reply",
)
_LABEL = ("label", "labels", "sentiment", "class", "category", "stars", "rating", "target", "score")
_SCORE = ("score", "label", "reward", "rating")
_CHOSEN, _REJECTED = ("chosen", "preferred", "better"), ("rejected", "dispreferred", "worse")
_TWO_TEXTS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("text", "text_pair"))
_SIDES = (("source", "target"), ("src", "tgt"), ("src", "trg"), ("document", "summary"), ("article", "highlights"))
_LANGUAGE = re.compile(r"[a-z]{2}")


@dataclass(frozen=True)
class Guess:
    """What a `data` entry could say of these rows."""

    format: Format
    why: str
    columns: Mapping[str, str] = field(default_factory=dict)
    layout: Layout | None = None


@dataclass
class Tried:
    """A guess with what it makes of the rows that were read."""

    guess: Guess
    rows: list[Row]
    reasons: Counter[str]
    joined: Joined

    @property
    def share(self) -> float:
        """Of the rows, those that can be used."""
        return len(self.rows) / max(1, len(self.rows) + self.reasons.total())


def best_guess(items: Sequence[Item]) -> Tried:
    """The first guess that uses most of the rows, else the one that uses the most."""
    rows = [item.row for item in items[:JUDGED] if item.row is not None]
    tries = [(attempt(items[:JUDGED], guess), guess) for guess in guesses(rows)]
    fitting = next((guess for tried, guess in tries if tried.share > 0.5), None)
    return attempt(items, fitting or max(tries, key=lambda one: one[0].share)[1])


def attempt(items: Iterable[Item], guess: Guess) -> Tried:
    """What the data stage would make of these rows."""
    joined, reasons, rows = Joined(), Counter[str](), list[Row]()
    if guess.layout is not None:
        items = join(items, guess.layout, guess.format, guess.columns, joined)
    normalise = normaliser(guess.format, {} if guess.layout else guess.columns)
    for item in items:
        try:
            if item.row is None or item.reason:
                raise Unusable(item.reason or "empty")
            rows.append(normalise(item.row))
        except Unusable as error:
            reasons[error.reason] += 1
    return Tried(guess, rows, reasons, joined)


def guesses(rows: Sequence[Row]) -> Iterator[Guess]:
    """What rows of these columns could be, the most telling first; never nothing."""
    kinds = column_kinds(rows, AGREEING)
    yield from _together(rows, kinds)
    if (chosen := _first(kinds, _CHOSEN)) and (rejected := _first(kinds, _REJECTED)):
        yield Guess(
            "preference", f"columns '{chosen}' and '{rejected}'", _mapped({"chosen": chosen, "rejected": rejected})
        )
    if {"input", "preferred_output", "non_preferred_output"} <= kinds.keys():
        sides = {"prompt": "input.messages", "chosen": "preferred_output", "rejected": "non_preferred_output"}
        yield Guess("preference", "'preferred_output' and 'non_preferred_output', as OpenAI has them", sides)
    for name in ("messages", "conversations"):
        if kinds.get(name) == "list":
            yield Guess("chat", f"a list of messages in '{name}'")
    if turns := next((name for name, kind in kinds.items() if kind == "list" and _are_messages(rows, name)), None):
        yield Guess("chat", f"a list of messages in '{turns}'", {"messages": turns})
    yield from _two_texts(rows, kinds)
    yield from _asked(kinds)
    texts = [name for name in _TEXT if kinds.get(name) == "text"]
    longest = max((name for name, kind in kinds.items() if kind == "text"), key=_bytes_in(rows), default=None)
    for name in [*texts, *([longest] if longest else [])]:
        yield Guess("text", f"text in '{name}'", _mapped({"text": name}))
    yield Guess("text", "nothing else")


def column_kinds(rows: Sequence[Row], agreeing: float = 1.0) -> dict[str, str]:
    """Column -> text, number, truth, list, object or nothing; mixed where less than this share of its values agree."""
    kinds: dict[str, Counter[str]] = {}
    for row in rows:
        for name, value in row.items():
            kinds.setdefault(name, Counter()).update(() if value is None else (_kind(value),))
    found = {name: counts.most_common(1)[0] if counts else ("nothing", 0) for name, counts in kinds.items()}
    return {name: kind if most >= agreeing * kinds[name].total() else "mixed" for name, (kind, most) in found.items()}


def _kind(value: Any) -> str:
    for kind, types in (("text", str), ("truth", bool), ("number", int | float), ("list", list), ("object", dict)):
        if isinstance(value, types):
            return kind
    return type(value).__name__


def _together(rows: Sequence[Row], kinds: Mapping[str, str]) -> Iterator[Guess]:
    """Trees and scores."""
    nested = kinds.get("prompt") == "object" or kinds.get("replies") == "list"
    if nested or {"message_id", "parent_id"} <= kinds.keys():
        how = "replies inside their message" if nested else "'message_id' and 'parent_id'"
        yield Guess("chat", f"a tree of messages ({how}); format: preference makes pairs of ranked replies", {}, "tree")
    score = next((name for name in _SCORE if kinds.get(name) in ("number", "truth")), None)
    asks, answers = _first(kinds, _ASKS), _first(kinds, _ANSWERS)
    if score and asks and answers and score not in (asks, answers):
        asked = [str(row.get(asks)) for row in rows]
        if len({*asked}) < len(asked):
            columns = _mapped({"prompt": asks, "completion": answers, "label" if score == "label" else "score": score})
            yield Guess("preference", f"several '{answers}' of one '{asks}', with '{score}'", columns, "scored")


def _are_messages(rows: Sequence[Row], name: str) -> bool:
    lists = (value for row in rows if isinstance(value := row.get(name), list) and value)
    first: list[Any] = next(lists, [])
    return bool(first) and isinstance(first[0], dict) and bool({"role", "from"} & first[0].keys())


def _two_texts(rows: Sequence[Row], kinds: Mapping[str, str]) -> Iterator[Guess]:
    """Texts with labels, and texts with texts."""
    label = next((name for name in _LABEL if kinds.get(name) in ("text", "number", "truth", "list")), None)
    pair = next((two for two in _TWO_TEXTS if {*two} <= kinds.keys()), None)
    if label and pair:
        columns = _mapped({"text": pair[0], "text_pair": pair[1], "label": label})
        yield Guess("labelled", f"'{pair[0]}' and '{pair[1]}' with '{label}'", columns)
    sides = next((two for two in _SIDES if all(kinds.get(name) == "text" for name in two)), None)
    if sides:
        yield Guess(
            "pairs", f"columns '{sides[0]}' and '{sides[1]}'", _mapped({"source": sides[0], "target": sides[1]})
        )
    inside = next((row["translation"] for row in rows if isinstance(row.get("translation"), dict)), kinds)
    prefix = "translation." if inside is not kinds else ""
    languages = [name for name in inside if _LANGUAGE.fullmatch(name) and name != "id"]
    if len(languages) == 2:
        source, target = (f"{prefix}{name}" for name in languages)
        yield Guess("pairs", f"columns '{source}' and '{target}'", _mapped({"source": source, "target": target}))
    text = _first(kinds, _TEXT)
    if label and text and label != text and not _first(kinds, _ANSWERS[:3]):
        yield Guess("labelled", f"'{text}' with '{label}'", _mapped({"text": text, "label": label}))


def _asked(kinds: Mapping[str, str]) -> Iterator[Guess]:
    """Questions with answers, and without."""
    asks = _first(kinds, _ASKS)
    answers = next((name for name in _ANSWERS if name in kinds and name != asks), None)
    if asks == "instruction" and answers == "output":
        yield Guess("chat", "columns 'instruction' and 'output', as Alpaca has them")
    elif asks and answers:
        columns = _mapped({"prompt": asks, "completion": answers})
        yield Guess("chat", f"'{asks}' answered by '{answers}'", columns)
    if asks and "text" not in kinds:
        yield Guess("prompt", f"column '{asks}' without an answer", _mapped({"prompt": asks}))


def _first(kinds: Mapping[str, str], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in kinds), None)


def _mapped(theirs: Mapping[str, str]) -> dict[str, str]:
    """Columns that are called otherwise than ours."""
    return {ours: name for ours, name in theirs.items() if ours != name}


def _bytes_in(rows: Sequence[Row]) -> Any:
    return lambda name: sum(len(value) for row in rows if isinstance(value := row.get(name), str))
