"""A recipe file in, a Recipe out that knows where each of its values stands; or every problem at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from pipelines.errors import KeyPath, Problem, RecipeError
from pipelines.recipe.layers import LAUNCH, NAME, SET, read_layers
from pipelines.recipe.model import STYLES
from pipelines.recipe.outline import Fault, outline_of, outline_of_whole
from pipelines.recipe.references import find_wrong_references
from pipelines.recipe.root import Recipe
from pipelines.recipe.sections import section_at
from pipelines.recipe.tree import Node, Place, Unreadable, format_path


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe without faults, and the file behind it."""

    recipe: Recipe
    path: Path
    tree: Node

    def place(self, path: KeyPath) -> Place:
        """(file, line, column) of the value at a key path, or of the block around it where it is not written."""
        path = _as_written(path, self.tree)
        node, reached = self.tree.nearest(path)
        return node.place if reached == path else node.key

    def origin(self, path: KeyPath) -> str:
        """Where a value comes from: `recipes/demo.yaml:31`, `--set`, `like dpo at ...`, `style gpt2`, `default`."""
        node, reached = self.tree.nearest(path)
        if reached != path and self._is_unwritten(node, path, reached):
            return self._unwritten(node, path)
        if node.via in (SET, LAUNCH, NAME):
            return node.via
        at = f"{node.place.file}:{node.place.line}"
        return f"{node.via} at {at}" if node.via else at

    def _is_unwritten(self, node: Node, path: KeyPath, reached: KeyPath) -> bool:
        """Of a section written short, as its bare name or kind, only that field is written."""
        short = path[len(reached)] in ("name", "config", "kind")
        return isinstance(node.value, dict) or (not short and section_at(reached, self.tree) is not None)

    def _unwritten(self, node: Node, path: KeyPath) -> str:
        style = node.child("style")
        if path[0] == "model" and style is not None and path[-1] in STYLES.get(str(style.value), {}):
            return f"style {style.value}"
        builtin = node.child("builtin")
        if path[0] == "data" and path[-1] == "format" and builtin is not None:
            return f"builtin {builtin.value}"
        return "default"


def load_recipe(path: Path, overrides: Sequence[str] = (), launch: str | None = None) -> LoadedRecipe:
    """Read, extend, override and check one recipe. Raises RecipeError with all the problems.

    `launch` is the launch file to take for all stages, instead of the recipe's own."""
    loaded, problems = _load(Path(path), overrides, launch)
    if problems or loaded is None:
        raise RecipeError(problems)
    return loaded


def find_problems(path: Path, overrides: Sequence[str] = (), launch: str | None = None) -> list[Problem]:
    """All that is wrong with a recipe, by place; empty for a good one."""
    return _load(Path(path), overrides, launch)[1]


def _load(path: Path, overrides: Sequence[str], launch: str | None) -> tuple[LoadedRecipe | None, list[Problem]]:
    problems: list[Problem] = []
    try:
        tree, stage_names = read_layers(path, overrides, launch, problems)
    except Unreadable as unreadable:
        return None, _tidy([*problems, *unreadable.problems])
    recipe = None if problems else _validated(tree)
    if recipe is not None:
        outline = outline_of_whole(recipe)
    else:
        # Only a recipe with faults pays for finding out what it still says.
        from pipelines.recipe.explain import find_faults

        findings = find_faults(tree)
        problems += findings.problems
        tree = findings.tree
        outline = outline_of(tree, stage_names, findings.broken)
    outline = replace(outline, folder=path.resolve().parent)
    problems += [_locate(fault, tree) for fault in find_wrong_references(outline, path)]
    problems = _tidy(problems)
    return (None if problems or recipe is None else LoadedRecipe(recipe, path, tree)), problems


def _validated(tree: Node) -> Recipe | None:
    try:
        return Recipe.model_validate(tree.plain())
    except ValidationError:
        return None


def _locate(fault: Fault, tree: Node) -> Problem:
    """A fault that no single section sees, shown at the deepest key of its path that is written."""
    path = _as_written(fault.path, tree)
    node, reached = tree.nearest(path)
    place = node.key if fault.at_key and reached == path else node.place
    return Problem(*place, format_path(reached), fault.message)


def _as_written(path: KeyPath, tree: Node) -> KeyPath:
    """A list of quality filters may stand for {filters: list}."""
    is_listed = path[2:4] == ("quality", "filters") and isinstance(tree.nearest(path[:3])[0].value, list)
    return path[:3] + path[4:] if is_listed else path


def _tidy(problems: Sequence[Problem]) -> list[Problem]:
    """By place. What a stage takes over by `like` is told once, where it is written."""
    found: dict[tuple[str, int, int, str], Problem] = {}
    for problem in sorted(problems, key=lambda it: (it.file, it.line, it.column, len(it.path))):
        told = replace(problem, path=_printable(problem.path), message=_printable(problem.message))
        found.setdefault((told.file, told.line, told.column, told.message), told)
    return list(found.values())


def _printable(text: str) -> str:
    """On one line, and without anything that a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
