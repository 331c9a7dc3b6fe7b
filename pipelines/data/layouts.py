"""Rows that mean something together: trees of messages and scored completions, made into chats and preferences."""

import json
import math
import sqlite3
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipelines.data.blocks import Item, Row
from pipelines.data.formats import ROLES, Message, Unusable, asked, renamed
from pipelines.recipe.data import Layout

LEFT_OVER: Mapping[str, str] = {
    "worse_reply": "not on the path of best-ranked replies",
    "unanswered": "at the end of a path, without an answer; or no reply to it is in a pair",
    "unranked": "a reply without a rank",
    "alone": "the only ranked reply to its message, or the only row of its prompt",
    "tied": "ranked or scored as the best one is",
    "deleted": "deleted in the source, or a reply to what is",
    "no_parent": "a reply to a message that is not there",
}
"""Why a row or message of the source is in no row of ours. It is how a layout is read, no fault of the data, and is
counted apart from what is dropped."""


@dataclass
class Joined:
    """How rows of the source (of trees, messages) became rows of ours: read = bad + used + left over."""

    read: int = 0
    bad: int = 0
    """Rows that are dropped for a reason of their own."""
    used: int = 0
    left_over: Counter[str] = field(default_factory=Counter)

    @property
    def is_whole(self) -> bool:
        """Whether everything that was read is accounted for."""
        return self.read == self.bad + self.used + self.left_over.total()

    def leave(self, reason: str, count: int = 1) -> None:
        """Count what is in no row of ours."""
        assert reason in LEFT_OVER
        if count:
            self.left_over[reason] += count


def join(
    items: Iterable[Item], layout: Layout, format: str, columns: Mapping[str, str], counts: Joined
) -> Iterator[Item]:
    """Rows that the formats know, made of a source's rows, and every bad one as it is; `counts` is filled on the way.

    What has to wait for other rows waits in a file on disk."""
    with _Shelf() as shelf:
        if layout == "scored":
            yield from _scored(items, columns, counts, shelf)
        else:
            yield from _trees(items, _chat if format == "chat" else _pairs, columns, counts, shelf)


class _Shelf:
    """Values by key, in the order in which they came."""

    def __enter__(self) -> "_Shelf":
        self.folder = tempfile.TemporaryDirectory()
        self.rows = sqlite3.connect(f"{self.folder.name}/rows", isolation_level=None)
        self.rows.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN;"
            "CREATE TABLE shelf (place INTEGER PRIMARY KEY, own TEXT UNIQUE, key TEXT, value TEXT);"
            "CREATE INDEX by_key ON shelf (key);"
        )
        return self

    def __exit__(self, *error: object) -> None:
        self.rows.close()
        self.folder.cleanup()

    def add(self, key: str, value: Any, own: str | None = None) -> bool:
        """False where a value of this name of its own is there already."""
        row = (own, key, json.dumps(value))
        return self.rows.execute("INSERT OR IGNORE INTO shelf (own, key, value) VALUES (?, ?, ?)", row).rowcount == 1

    def __iter__(self) -> Iterator[str]:
        found = self.rows.execute("SELECT key FROM shelf GROUP BY key ORDER BY min(place)")
        return (key for (key,) in found)

    def of(self, key: str) -> Iterator[Any]:
        found = self.rows.execute("SELECT value FROM shelf WHERE key = ? ORDER BY place", (key,))
        return (json.loads(value) for (value,) in found)


def _number(value: Any) -> float | None:
    """Cells of a table are text, also where they mean a number or a truth value."""
    if isinstance(value, str):
        value = {"true": True, "false": False}.get(value.strip().lower(), value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


# --- scored completions -------------------------------------------------------------------------------------------


def _scored(items: Iterable[Item], columns: Mapping[str, str], counts: Joined, shelf: _Shelf) -> Iterator[Item]:
    """Of each prompt, its best completion against each that is worse, in the order of the prompts."""
    for item in items:
        counts.read += 1
        try:
            if item.row is None:
                raise Unusable(item.reason or "empty")
            row = renamed(item.row, columns)
            shelf.add(json.dumps(asked(row), sort_keys=True), [*_completion(row), item.file, item.line])
        except Unusable as error:
            counts.bad += 1
            yield item._replace(reason=error.reason)
    for key in shelf:
        rows = list(shelf.of(key))
        best = max(rows, key=lambda row: row[1])
        worse = [row for row in rows if row[1] < best[1]]
        for completion, _, file, line in worse:
            pair = {"prompt": json.loads(key), "chosen": best[0], "rejected": completion}
            yield Item(pair, None, file, line)
        used = len(worse) + bool(worse)
        counts.used += used
        counts.leave("alone" if len(rows) == 1 else "tied", len(rows) - used)


def _completion(row: Row) -> tuple[Any, float]:
    """(completion, score)"""
    completion = row["completion"] if row.get("completion") is not None else row.get("output")
    if not {"completion", "output"} & row.keys() or not {"score", "label"} & row.keys():
        raise Unusable("missing_column")
    if completion is None or completion == "":
        raise Unusable("empty_answer")
    score = row["score"] if row.get("score") is not None else row.get("label")
    if score is None or score == "":
        raise Unusable("no_score")
    number = _number(score)
    if number is None:
        raise Unusable("not_a_score")
    return completion, number


# --- trees of messages --------------------------------------------------------------------------------------------


class _Node(NamedTuple):
    """A message, with the place of its parent in the tree, or None at its root."""

    parent: int | None
    role: str
    text: Any
    rank: float | None
    file: str
    line: int

    @property
    def is_answer(self) -> bool:
        return ROLES.get(self.role) == "assistant"

    @property
    def message(self) -> Message:
        return {"role": self.role, "content": self.text}


Tree = list[_Node]
"""Every message after its parent, and replies in their order in the source."""
Make = Callable[[Tree, Joined], Iterator[Item]]


def _trees(
    items: Iterable[Item], make: Make, columns: Mapping[str, str], counts: Joined, shelf: _Shelf
) -> Iterator[Item]:
    """A whole tree in one row, replies inside the message that they answer; or one message a row, with its parent."""
    for item in items:
        try:
            tree = _tree_or_shelve(item, columns, counts, shelf)
        except Unusable as error:
            counts.read, counts.bad = counts.read + 1, counts.bad + 1
            yield item._replace(reason=error.reason)
        else:
            yield from make(tree, counts)
    reached = 0
    for root in shelf.of(""):
        tree, size = _grown(root, lambda message: shelf.of(message["own"]), counts)
        reached += size
        yield from make(tree, counts)
    (shelved,) = shelf.rows.execute("SELECT count(*) FROM shelf").fetchone()
    counts.leave("no_parent", shelved - reached)


def _tree_or_shelve(item: Item, columns: Mapping[str, str], counts: Joined, shelf: _Shelf) -> Tree:
    """The tree that a row holds; no message of it, where the row is one message and waits for the others."""
    if item.row is None:
        raise Unusable(item.reason or "empty")
    row = _message(item.row, item, columns)
    whole = row["prompt"] if isinstance(row.get("prompt"), dict) else item.row
    root = _message(whole, item, columns)
    if isinstance(root.get("replies"), list):
        tree, size = _grown(root, lambda message: [_message(it, item, columns) for it in _replies(message)], counts)
        counts.read += size
        return tree
    if not {"message_id", "role", "text"} <= row.keys():
        raise Unusable("missing_column")
    own, parent = json.dumps(row["message_id"]), row.get("parent_id")
    kept = {name: row.get(name) for name in ("role", "text", "rank", "deleted", "file", "line")} | {"own": own}
    if not shelf.add("" if parent is None or parent == "" else json.dumps(parent), kept, own):
        raise Unusable("duplicate_id")
    counts.read += 1
    return []


def _message(found: Any, item: Item, columns: Mapping[str, str]) -> Row:
    """A message by our names, with its place in the source."""
    if not isinstance(found, dict):
        raise Unusable("no_messages")
    named = {ours: found[theirs] for ours, theirs in columns.items() if theirs in found}
    return found | named | {"file": item.file, "line": item.line}


def _replies(message: Row) -> list[Any]:
    replies = message.get("replies") or []
    if not isinstance(replies, list) or not {"role", "text"} <= message.keys():
        raise Unusable("no_messages")
    return replies


def _grown(root: Row, replies: Callable[[Row], Iterable[Row]], counts: Joined) -> tuple[Tree, int]:
    """(what is not deleted of the tree below a message, messages that it has with what is)"""
    tree: Tree = []
    size = deleted = 0
    waiting: deque[tuple[int | None, Row, bool]] = deque([(None, root, False)])
    while waiting:
        parent, message, is_gone = waiting.popleft()
        is_gone = is_gone or message.get("deleted") is True
        size, deleted = size + 1, deleted + is_gone
        waiting.extend((len(tree), reply, is_gone) for reply in replies(message))
        if not is_gone:
            rank = _number(message.get("rank"))
            tree.append(_Node(parent, str(message["role"]), message["text"], rank, message["file"], message["line"]))
    counts.leave("deleted", deleted)
    return tree, size


def _below(tree: Tree) -> dict[int, list[int]]:
    """Place of a message -> places of its replies."""
    below: dict[int, list[int]] = {}
    for place, node in enumerate(tree):
        if node.parent is not None:
            below.setdefault(node.parent, []).append(place)
    return below


def _chat(tree: Tree, counts: Joined) -> Iterator[Item]:
    """The path of best-ranked replies, up to the last answer. Without ranks the first reply counts as the best; a
    question that nobody answered is taken only where there is no other."""
    below, path = _below(tree), [0][: len(tree)]

    def order(place: int) -> tuple[bool, float]:
        rank = tree[place].rank
        return not tree[place].is_answer and place not in below, math.inf if rank is None else rank

    while path and (replies := below.get(path[-1])):
        path.append(min(replies, key=order))
    counts.leave("worse_reply", len(tree) - len(path))
    while path and not tree[path[-1]].is_answer:
        path.pop()
        counts.leave("unanswered")
    counts.used += len(path)
    if path:
        yield Item({"messages": [tree[place].message for place in path]}, None, tree[0].file, tree[0].line)


def _pairs(tree: Tree, counts: Joined) -> Iterator[Item]:
    """Of each message with ranked answers, the best against each that is worse."""
    used: set[int] = set()
    why: dict[int, str] = {}
    for asked_at, replies in _below(tree).items():
        answers = [place for place in replies if tree[place].is_answer]
        ranked = [(rank, place) for place in answers if (rank := tree[place].rank) is not None]
        why |= dict.fromkeys(answers, "unranked") | {place: "tied" for _, place in ranked}
        worse = [place for rank, place in ranked if rank > min(ranked)[0]]
        if not worse:
            why |= {place: "alone" for _, place in ranked[: len(ranked) == 1]}
            continue
        path: list[int] = []
        above: int | None = asked_at
        while above is not None:
            path.insert(0, above)
            above = tree[above].parent
        best, prompt = min(ranked)[1], [tree[place].message for place in path]
        used |= {*path, best, *worse}
        for place in worse:
            node = tree[place]
            yield Item({"prompt": prompt, "chosen": tree[best].text, "rejected": node.text}, None, node.file, node.line)
    counts.used += len(used)
    for place in range(len(tree)):
        if place not in used:
            counts.leave(why.get(place, "unanswered"))
