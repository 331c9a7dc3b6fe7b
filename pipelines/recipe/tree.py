"""YAML text as a tree in which every key and value knows where it stands; what a recipe must not hold is refused."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError, YAMLStreamError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from pipelines.errors import KeyPath, Problem

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 32


class Place(NamedTuple):
    """Where something stands; line and column count from 1."""

    file: str
    line: int
    column: int


Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Node:
    """A value of the recipe with its places."""

    value: "dict[str, Node] | list[Node] | Scalar"
    place: Place
    """Where a fault of the value is shown: the value itself, or the key of an indented block."""
    key: Place
    """Where its key stands; for the item of a list, the item."""
    via: str = ""
    """How it came here, when not from the place itself: `like dpo`, `--set`, `name`."""
    refused: bool = False
    """Already reported, and to be left out."""

    @property
    def fields(self) -> "dict[str, Node]":
        """Of a mapping; anything else has none."""
        return self.value if isinstance(self.value, dict) else {}

    def having(self, key: str, node: "Node") -> "Node":
        """The same mapping with another value under a key."""
        return replace(self, value=self.fields | {key: node})

    def children(self) -> Iterator[tuple[str | int, "Node"]]:
        if isinstance(self.value, dict):
            yield from self.value.items()
        elif isinstance(self.value, list):
            yield from enumerate(self.value)

    def child(self, key: str | int) -> "Node | None":
        return next((node for name, node in self.children() if name == key), None)

    def nearest(self, path: KeyPath) -> tuple["Node", KeyPath]:
        """The deepest node on the way to a path, and how far that was."""
        node = self
        for depth, key in enumerate(path):
            below = node.child(key)
            if below is None:
                return node, path[:depth]
            node = below
        return node, path

    def plain(self) -> Any:
        """Without places: mappings as dict, lists as tuple, as the frozen sections hold them."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items() if not node.refused}
        if isinstance(self.value, list):
            return tuple(node.plain() for node in self.value if not node.refused)
        return self.value

    def copied(self, via: str) -> "Node":
        """The same value, marked as having come another way."""
        value = self.value
        if isinstance(value, dict):
            value = {key: node.copied(via) for key, node in value.items()}
        elif isinstance(value, list):
            value = [node.copied(via) for node in value]
        return replace(self, value=value, via=via)


class Unreadable(Exception):
    """The text is no YAML mapping that a recipe could be; carries all that is wrong with it."""

    def __init__(self, *problems: Problem):
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


def read_tree(
    path: Path, problems: list[Problem], *, what: str = "recipe", has: str = "name, data, model, stages, launch"
) -> Node:
    """The mapping in a file. Raises Unreadable when there is none; adds smaller faults to `problems`. `what` the file
    is, and `has`, are for messages."""
    text = _read_text(path)
    node = _Builder(str(path), problems).build(text)
    if node is None or node.value is None:
        raise Unreadable(Problem(str(path), 1, 1, "", f"the file is empty; a {what} has {has}"))
    if not isinstance(node.value, dict):
        kind = "a list" if isinstance(node.value, list) else "a single value"
        raise Unreadable(Problem(*node.place, "", f"a {what} is a mapping of fields, and this is {kind}"))
    return node


def read_value(text: str, place: Place, problems: list[Problem]) -> Node:
    """The value behind `--set key=`: a scalar, or a list or mapping in one line. Nothing at all is null."""
    node = _Builder(place.file, problems, at=place).build(text)
    return node or Node(None, place, place)


def format_path(path: KeyPath) -> str:
    """`stages.evaluate.tasks[0].limit`"""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def shown(node: Node) -> str:
    """A value as it stands in a message."""
    value = node.value
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = str(value) if len(str(value)) <= 80 else f"{str(value)[:76]}..."
    return text if isinstance(value, int | float) else f"'{text}'"


def _read_text(path: Path) -> str:
    def refuse(message: str, line: int = 1, column: int = 1) -> Unreadable:
        return Unreadable(Problem(str(path), line, column, "", message))

    try:
        if not path.is_file():
            raise refuse("there is no such file" if not path.exists() else "this is not a file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise refuse(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_BYTES:
        raise refuse("larger than 1 MiB; a recipe is short, and data belong in files of their own")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise refuse("this is UTF-16; save the file as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = data.count(b"\n", 0, error.start) + 1, error.start - data.rfind(b"\n", 0, error.start)
        raise refuse(f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8", line, column) from None
    if found := re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]", text):
        line, column = text.count("\n", 0, found.start()) + 1, found.start() - text.rfind("\n", 0, found.start())
        raise refuse(f"character U+{ord(found[0]):04X} is not allowed in a recipe; remove it", line, column)
    return text


# Events that stand for a value; ruamel sets their attributes without declaring them.
_Event = Any


class _Builder:
    """Events of the YAML parser -> nodes. Tags, anchors, aliases, duplicate keys and second documents are refused."""

    def __init__(self, file: str, problems: list[Problem], at: Place | None = None):
        self.file = file
        self.problems = problems
        self.at = at

    def build(self, text: str) -> Node | None:
        yaml = YAML(typ="safe", pure=True)
        self.events = iter(yaml.parse(text))
        root = None
        try:
            for event in self.events:
                if isinstance(event, DocumentStartEvent) and root is not None:
                    self._refuse(event, (), "a second document starts here; one recipe per file")
                    break
                if isinstance(event, ScalarEvent | MappingStartEvent | SequenceStartEvent | AliasEvent):
                    root = self._node(event, (), None)
        except (YAMLError, YAMLStreamError) as error:
            raise Unreadable(*self.problems, self._explain(error)) from None
        return root

    def _node(self, event: _Event, path: KeyPath, key: Place | None) -> Node:
        if len(path) > MAX_DEPTH:
            raise Unreadable(
                *self.problems, self._problem(event, path[:3], f"nested more than {MAX_DEPTH} levels deep")
            )
        here = self._place(event)
        if isinstance(event, AliasEvent):
            self._refuse(event, path, "aliases (*name) are not used in recipes; write the value out, text in quotes")
            return Node(None, here, key or here, refused=True)
        if event.anchor is not None:
            self._refuse(event, path, "anchors (&name) are not used in recipes; `like` and `extends` share values")
        tagged = event.tag is not None and event.tag != "!"
        if tagged:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._refuse(event, path, f"tags ({tag}) are not used in recipes; write the value alone")
        if isinstance(event, ScalarEvent):
            node = self._scalar(event, path, here, key)
            return replace(node, refused=node.refused or tagged)
        place = here if event.flow_style or key is None else key
        value = self._mapping(path) if isinstance(event, MappingStartEvent) else self._sequence(path)
        return Node(value, place, key or here, refused=tagged)

    def _scalar(self, event: _Event, path: KeyPath, here: Place, key: Place | None) -> Node:
        quoted = event.style is not None or event.tag is not None
        value = event.value if quoted else plain_scalar(event.value)
        if isinstance(value, str) and _SURROGATE.search(value):
            self._refuse(event, path, "a lone surrogate (\\ud800 to \\udfff) is no character")
            return Node(None, here, key or here, refused=True)
        place = key if key is not None and not quoted and not event.value else here
        return Node(value, place, key or here)

    def _mapping(self, path: KeyPath) -> dict[str, Node]:
        value: dict[str, Node] = {}
        for event in self.events:
            if isinstance(event, MappingEndEvent):
                break
            if not isinstance(event, ScalarEvent):
                message = "a key must be a plain word; text with * { [ in it needs quotes"
                raise Unreadable(*self.problems, self._problem(event, path, message))
            child = (*path, event.value)
            name = self._node(event, child, None)
            node = self._node(next(self.events), child, name.place)
            if event.value in value:
                first = value[event.value].key.line
                self._refuse(event, child, f"written twice, first in line {first}; keep one")
            elif not name.refused:
                value[event.value] = node
        return value

    def _sequence(self, path: KeyPath) -> list[Node]:
        value: list[Node] = []
        for event in self.events:
            if isinstance(event, SequenceEndEvent):
                break
            value.append(self._node(event, (*path, len(value)), None))
        return value

    def _place(self, event: _Event) -> Place:
        mark = event.start_mark
        if self.at:
            return self.at._replace(column=self.at.column + mark.index)
        return Place(self.file, mark.line + 1, mark.column + 1)

    def _problem(self, event: _Event, path: KeyPath, message: str) -> Problem:
        return Problem(*self._place(event), format_path(path), message)

    def _refuse(self, event: _Event, path: KeyPath, message: str) -> None:
        self.problems.append(self._problem(event, path, message))

    def _explain(self, error: Exception) -> Problem:
        """The parser's own words name tokens; say what the writer has to do."""
        mark = (error.problem_mark or error.context_mark) if isinstance(error, MarkedYAMLError) else None
        said = str((isinstance(error, MarkedYAMLError) and error.problem) or error).splitlines()[0]
        where = str((isinstance(error, MarkedYAMLError) and error.context) or "")
        message = next((plain for part, plain in _SYNTAX if part in said or part in where), f"this is not YAML: {said}")
        if self.at:
            return Problem(*self.at, "", f"--set value: {message}")
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        return Problem(self.file, line, column, "", message)


_SYNTAX = (
    ("'\\t'", "a tab; indent with spaces"),
    ("while scanning an alias", "text that begins with * needs quotes"),
    ("while scanning an anchor", "text that begins with & needs quotes"),
    ("mapping values are not allowed", "a second ': ' in one value; check the indentation, or put the text in quotes"),
    ("could not find expected ':'", "this line has no ': '; a field is written `key: value`"),
    ("expected <block end>", "the indentation does not fit the lines above, or a bracket is closed too early"),
    ("while parsing a flow mapping", "a { is not closed with }, or a comma is missing"),
    ("while parsing a flow sequence", "a [ is not closed with ], or a comma is missing"),
    ("found unexpected end of stream", "a quote is not closed"),
    ("unexpected document separator", "a quote or bracket is not closed"),
    ("cannot start any token", "text that begins with @, ` or % needs quotes"),
    ("expected the node content", "a value is missing here, or a { or [ is not closed"),
    ("unknown escape character", 'unknown escape in "..."; write \\\\ for a backslash, or use single quotes'),
)

_SURROGATE = re.compile("[\ud800-\udfff]")
_NUMBER = r"[0-9]+(?:_[0-9]+)*"
_INT = re.compile(rf"[-+]?{_NUMBER}")
_BASED = re.compile(r"0x[0-9a-fA-F]{1,16}|0o[0-7]{1,21}")
_FLOAT = re.compile(rf"[-+]?(?:\.[0-9]+|{_NUMBER}(?:\.(?:{_NUMBER})?)?)(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_MAX_DIGITS = 40


def plain_scalar(text: str) -> Scalar:
    """YAML 1.2's core words, and numbers as people write them (`1e-5`, `10_000`); all else is text, dates too."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _MAX_DIGITS:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, base=0)
    return float(text) if _FLOAT.fullmatch(text) else text
