"""The layers of a recipe laid over each other: its parent (`extends`), the file, `--set`, stages `like` others."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.errors import KeyPath, Problem
from pipelines.recipe.paths import is_file
from pipelines.recipe.stages import STAGE_KINDS
from pipelines.recipe.tree import Node, Place, Unreadable, format_path, read_tree, read_value, shown
from pipelines.recipe.words import closest, did_you_mean, is_typo

SET = "--set"
LAUNCH = "--launch"
NAME = "the stage's name"


def read_layers(
    path: Path, overrides: Sequence[str], launch: str | None, problems: list[Problem]
) -> tuple[Node, tuple[str, ...]]:
    """One tree of all layers, without `extends` and `like`, each stage with its kind, and the names of all stages;
    a stage whose kind cannot be known is reported and left out of the tree. Raises Unreadable."""
    tree = _with_parent(path, _read(path, problems), problems)
    for number, override in enumerate(overrides, start=1):
        tree = _with_override(tree, override, Place(SET, number, 1), problems)
    if launch is not None:
        tree = _with_launch(tree, launch)
    stages = tree.child("stages")
    names: tuple[str, ...] = ()
    if stages is not None and isinstance(stages.value, dict):
        names = tuple(stages.value)
        if not names:
            problems.append(Problem(*stages.key, "stages", "names no stage, so there is nothing to do"))
        expanded = _Expansion(stages.value, problems).all()
        names += tuple(name for name in expanded if name not in names)
        tree = tree.having("stages", replace(stages, value=expanded))
    return tree, names


def _read(path: Path, problems: list[Problem]) -> Node:
    """One file, in which a slip in the word `stages` is reported and read as meant."""
    tree = read_tree(path, problems)
    key = _meant(tree.fields, "stages", problems)
    named = {"stages" if name == key else name: node for name, node in tree.fields.items()}
    return replace(tree, value=named)


def _with_parent(path: Path, tree: Node, problems: list[Problem]) -> Node:
    key = _meant(tree.fields, "extends", problems)
    if key is None:
        return tree
    own = {name: node for name, node in tree.fields.items() if name != key}
    node, top = tree.fields[key], replace(tree, value=own)
    if node.refused:
        return top
    if not isinstance(node.value, str):
        problems.append(Problem(*node.place, "extends", "needs one file name, relative to this file"))
        return top
    parent = Path(os.path.normpath(path.parent / node.value))
    if not is_file(parent):
        raise Unreadable(*problems, Problem(*node.place, "extends", f"there is no file {parent}"))
    base = _read(parent, problems)
    if "extends" in base.fields:
        message = f"{parent} extends another recipe itself; one level is the limit"
        raise Unreadable(*problems, Problem(*node.place, "extends", message))
    return overlay(base, top)


def overlay(base: Node, top: Node) -> Node:
    """Mappings merge key by key, null removes a key of the base, anything else is replaced whole, lists included."""
    if not (isinstance(base.value, dict) and isinstance(top.value, dict)):
        return top
    merged = dict(base.value)
    for key, node in top.value.items():
        if key not in merged:
            merged[key] = node
        elif node.value is None and not node.refused:
            del merged[key]
        else:
            merged[key] = overlay(merged[key], node)
    return replace(top, value=merged)


_STEP = re.compile(r"([^.\[\]=]+)|\[([0-9]+)\]")


def _with_override(tree: Node, override: str, place: Place, problems: list[Problem]) -> Node:
    dotted, equals, text = override.partition("=")
    dotted = dotted.strip()
    path = _parse_path(dotted)
    if not equals or not path:
        message = f"'{override}' is not key=value; write for example --set stages.pretrain.learning_rate=1e-3"
        problems.append(Problem(*place, "", message))
        return tree
    if path[0] == "extends":
        problems.append(Problem(*place, "extends", "stands in the recipe's file only"))
        return tree
    at = place._replace(column=override.index("=") + 2)
    node = read_value(text, at, problems).copied(SET)
    try:
        return _assigned(_with_own_copy(tree, path), path, replace(node, key=place), place)
    except _NoWay as no_way:
        problems.append(Problem(*place, dotted, str(no_way)))
        return tree


def _with_launch(tree: Node, name: str) -> Node:
    """One launch file for all stages, also for those to which the recipe gives their own: it says which machine."""
    place = Place(LAUNCH, 1, 1)
    file = Node(name, place, place, via=LAUNCH)
    launch = _spelt_out(tree.child("launch") or Node(None, place, place, via=LAUNCH), "config", ("launch",))
    if not isinstance(launch.value, dict):
        return tree  # that it is none is told anyway
    stages = launch.child("stages")
    if stages is not None and isinstance(stages.value, dict):
        short = {stage: _spelt_out(own, "config", ("launch", "stages", stage)) for stage, own in stages.value.items()}
        own = {stage: node.having("config", file) if node.child("config") else node for stage, node in short.items()}
        launch = launch.having("stages", replace(stages, value=own))
    return tree.having("launch", launch.having("config", file))


def _parse_path(dotted: str) -> KeyPath:
    """`a.b[0].c` as a key path; empty when it is none."""
    path: list[str | int] = []
    position = 0
    while position < len(dotted):
        if dotted[position] == "." and path:
            position += 1
        found = _STEP.match(dotted, position)
        if not found or (found[1] is None and not path) or (found[1] and path and dotted[position - 1] != "."):
            return ()
        path.append(found[1] if found[1] is not None else int(found[2]))
        position = found.end()
    return tuple(path)


def _with_own_copy(tree: Node, path: KeyPath) -> Node:
    """A path that leads into what a stage takes over by `like` needs the stage to have its own copy first."""
    stages = tree.child("stages")
    if path[0] != "stages" or len(path) < 4 or stages is None or not isinstance(stages.value, dict):
        return tree
    name, key = str(path[1]), path[2]
    own, found = stages.child(name), _taken_over(stages, stages.child(name), key)
    if own is None or found is None:
        return tree
    return tree.having("stages", stages.having(name, own.having(str(key), found)))


def _taken_over(stages: Node, stage: Node | None, key: str | int) -> Node | None:
    """What a stage has under a key only by `like`."""
    names: list[str] = []
    while stage is not None and stage.child(key) is None:
        like = stage.child("like")
        if like is None or not isinstance(like.value, str) or like.value in names:
            return None
        names.append(like.value)
        stage = stages.child(like.value)
    found = stage.child(key) if stage is not None and names else None
    return found.copied(f"like {names[0]}") if found is not None else None


class _NoWay(Exception):
    """A `--set` path that leads nowhere."""


def _assigned(node: Node, path: KeyPath, value: Node, place: Place, done: KeyPath = ()) -> Node:
    if not path:
        return value
    key, *rest = path
    node = _spelt_out(node, key, done)
    here = format_path(done) or "the recipe"
    if isinstance(key, int):
        if not isinstance(node.value, list):
            raise _NoWay(f"{here} is not a list")
        if key >= len(node.value):
            raise _NoWay(f"{here} has {len(node.value)} items, counted from 0, so there is no [{key}]")
        items = list(node.value)
        items[key] = _assigned(items[key], tuple(rest), value, place, (*done, key))
        return replace(node, value=items)
    if not isinstance(node.value, dict):
        raise _NoWay(f"{here} is {'a list; name an item as [0]' if isinstance(node.value, list) else 'a single value'}")
    below = node.child(key) or Node(None, place, place, via=SET)
    return node.having(key, _assigned(below, tuple(rest), value, place, (*done, key)))


def _spelt_out(node: Node, key: str | int, path: KeyPath) -> Node:
    """A short form (a bare kind, name or dataset) as the block or list that it is short for."""
    if node.value is None:
        return replace(node, value={}) if isinstance(key, str) else node
    if isinstance(node.value, dict | list):
        return node
    match path:
        case ("data", _, "files") | ("stages", _, "models" | "tasks") if isinstance(key, int):
            return replace(node, value=[node])
        case ("launch",) | ("launch", "stages", _):
            return replace(node, value={"config": node})
        case ("stages", _):
            return replace(node, value={"kind": node})
        case ("stages", _, "tasks", int()):
            return replace(node, value={"name": node})
        case ("stages", _, "data") if isinstance(node.value, str):
            return replace(node, value={node.value: replace(node, value=1.0)})
    return node


class _Expansion:
    """Stages without `like`, each with its kind; a stage whose kind cannot be known is reported and left out."""

    def __init__(self, stages: dict[str, Node], problems: list[Problem]):
        self.stages = stages
        self.problems = problems
        self.done: dict[str, Node | None] = {}

    def all(self) -> dict[str, Node]:
        for name in self.stages:
            if name not in self.done:
                self._expand(name, ())
        return {self._named(name) or name: node for name in self.stages if (node := self.done[name]) is not None}

    def _named(self, name: str) -> str | None:
        """The kind that a name says; a slip of it counts where nothing else has that name, to tell one fault once."""
        if name in STAGE_KINDS:
            return name
        slip = next((kind for kind in STAGE_KINDS if is_typo(name, kind) and kind not in self.stages), None)
        own = self.stages[name].value
        return slip if isinstance(own, dict) and not {"kind", "like"} & set(own) else None

    def _expand(self, name: str, above: tuple[str, ...]) -> Node | None:
        if name not in self.done:
            self.done[name] = None
            self.done[name] = self._expanded(name, (*above, name))
        return self.done[name]

    def _expanded(self, name: str, above: tuple[str, ...]) -> Node | None:
        node = self.stages[name]
        if node.refused:
            return None
        if isinstance(node.value, str):
            node = replace(node, value={"kind": node})
        if not isinstance(node.value, dict):
            return self._report(
                node.place, name, "needs a block of fields" + (", and is empty" if node.value is None else "")
            )
        own: dict[str, Node] = dict(node.value)
        like: Node | None = None
        kind: Node | None = None
        if key := _meant(own, "like", self.problems, ("stages", name)):
            like = own.pop(key)
        if key := _meant(own, "kind", self.problems, ("stages", name)):
            kind = own.pop(key)
        if (like and like.refused) or (kind and kind.refused):
            return None
        if like:
            source = self._source(name, like, above)
            if source is None:
                return None
            own = {key: below.copied(f"like {like.value}") for key, below in source.fields.items()} | own
        if kind is not None and not self._is_kind(kind, name):
            return None
        if kind is None and "kind" not in own:
            if name not in STAGE_KINDS:
                self._report(node.key, name, _no_kind(name))
            if (meant := self._named(name)) is None:
                return None
            kind = Node(meant, node.key, node.key, via=NAME)
        tasks = own.get("tasks")
        if tasks is not None and isinstance(tasks.value, dict):
            own["tasks"] = replace(tasks, value=[tasks])  # one task may stand bare
        via = f"like {like.value}" if like else node.via
        return replace(node, value=own | {"kind": kind or own["kind"]}, via=via)

    def _source(self, name: str, like: Node, above: tuple[str, ...]) -> Node | None:
        if not isinstance(like.value, str):
            return self._report(like.place, f"{name}.like", f"needs the name of a stage, got {shown(like)}")
        if like.value not in self.stages:
            hint = did_you_mean(like.value, [stage for stage in self.stages if stage != name])
            return self._report(like.place, f"{name}.like", f"there is no stage {shown(like)}{hint}")
        if like.value in above:
            circle = " -> ".join([*above[above.index(like.value) :], like.value])
            return self._report(like.place, f"{name}.like", f"goes in a circle: {circle}")
        return self._expand(like.value, above)

    def _is_kind(self, kind: Node, name: str) -> bool:
        if isinstance(kind.value, str) and kind.value in STAGE_KINDS:
            return True
        hint = did_you_mean(str(kind.value), STAGE_KINDS) if isinstance(kind.value, str) else ""
        message = f"{shown(kind)} is not one of {', '.join(STAGE_KINDS)}{hint}"
        self._report(kind.place, f"{name}.kind", message)
        return False

    def _report(self, place: Place, path: str, message: str) -> Node | None:
        """Always None: what a fault leaves of a stage."""
        self.problems.append(Problem(*place, f"stages.{path}", message))
        return None


def _no_kind(name: str) -> str:
    if close := closest(name, STAGE_KINDS):
        return f"a stage named so needs a kind or like; did you mean '{close}'? Kinds are {', '.join(STAGE_KINDS)}"
    return f"a stage named so needs `kind: ...` or `like: <stage>`; kinds are {', '.join(STAGE_KINDS)}"


def _meant(fields: dict[str, Node], word: str, problems: list[Problem], path: KeyPath = ()) -> str | None:
    """The key that is this word, or a slip of it: that is reported, and read as meant, so that it is the only fault."""
    if word in fields:
        return word
    slip = next((key for key in fields if is_typo(key, word)), None)
    if slip:
        message = f"unknown field; did you mean '{word}'?"
        problems.append(Problem(*fields[slip].key, format_path((*path, slip)), message))
    return slip
