"""Launch files: Accelerate's own YAML, of which the plan needs how many processes there are, and where."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import MachineError, Problem
from pipelines.recipe.paths import find, names
from pipelines.recipe.tree import Node, Unreadable, read_tree, shown
from pipelines.recipe.words import did_you_mean

FOLDER = "accelerate"
SHARDED = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP")
"""Kinds of launch that cut the weights up, which no checkpoint here can put together again."""


@dataclass(frozen=True)
class AccelerateFile:
    """What of a launch file matters outside of Accelerate."""

    num_processes: int
    """Over all machines."""
    num_machines: int
    device: str
    """cpu | gpu"""
    mixed_precision: str | None
    """no | bf16 | fp16 | fp8, or None where the file leaves it open."""
    path: Path


def read_accelerate(name: str, recipe_path: Path) -> AccelerateFile:
    """recipes/accelerate/<name>.yaml, beside the recipe or the project's own. MachineError if it is no good."""
    path = find(name, FOLDER, ".yaml", recipe_path)
    if path is None:
        known = names(FOLDER, ".yaml", recipe_path)
        raise MachineError(f"there is no launch file '{name}'; there are {', '.join(known)}{did_you_mean(name, known)}")
    problems: list[Problem] = []
    try:
        tree = read_tree(path, problems, what="launch file", has="what `accelerate config` writes: use_cpu, ...")
    except Unreadable as unreadable:
        raise MachineError(f"launch file {unreadable.problems[0]}") from None
    if problems:
        raise MachineError(f"launch file {problems[0]}")
    _refuse_sharded(tree, path)
    return AccelerateFile(
        num_processes=_count(tree, "num_processes", path),
        num_machines=_count(tree, "num_machines", path),
        device="cpu" if _says_yes(tree, "use_cpu", path) else "gpu",
        mixed_precision=_precision(tree, path),
        path=path,
    )


def _refuse_sharded(tree: Node, path: Path) -> None:
    node = tree.child("distributed_type")
    if node is not None and str(node.value).upper() in SHARDED:
        raise MachineError(
            f"launch file {path}:{node.place.line}: distributed_type {node.value} cuts the weights into shards, which "
            "is not supported; use MULTI_GPU (a whole copy on every GPU)"
        )


def _count(tree: Node, key: str, path: Path) -> int:
    node = tree.child(key)
    if node is None:
        return 1
    if not isinstance(node.value, int) or isinstance(node.value, bool) or node.value < 1:
        raise _wrong(key, node, path, "a whole number of at least 1")
    return node.value


_YES, _NO = ("true", "yes", "on"), ("false", "no", "off")
"""Accelerate reads its files as YAML 1.1."""


def _says_yes(tree: Node, key: str, path: Path) -> bool:
    node = tree.child(key)
    if node is None or node.value is None:
        return False
    word = str(node.value).lower()
    if word not in (*_YES, *_NO):
        raise _wrong(key, node, path, "true or false")
    return word in _YES


def _precision(tree: Node, path: Path) -> str | None:
    node = tree.child("mixed_precision")
    if node is None or node.value is None:
        return None
    word = str(node.value).lower()
    if word not in (*_NO, "bf16", "fp16", "fp8"):
        raise _wrong("mixed_precision", node, path, "no, bf16, fp16 or fp8")
    return "no" if word in _NO else word


def _wrong(key: str, node: Node, path: Path, needed: str) -> MachineError:
    return MachineError(f"launch file {path}:{node.place.line}: {key} must be {needed}, not {shown(node)}")
