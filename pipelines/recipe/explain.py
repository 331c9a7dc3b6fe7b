"""What is wrong with a value, in plain words: pydantic's errors -> problems with a place and a way out."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipelines.errors import KeyPath, Problem
from pipelines.recipe.base import Section
from pipelines.recipe.docstrings import docstrings, first_sentence
from pipelines.recipe.root import BLOCKS, OWN, Recipe
from pipelines.recipe.sections import homes, section_at
from pipelines.recipe.training import StageConfig
from pipelines.recipe.tree import Node, format_path, shown
from pipelines.recipe.words import closest, did_you_mean, is_typo


@dataclass
class Findings:
    """What validation found, and what is left to look at."""

    tree: Node
    """The tree with slips of spelling put right and fields that nobody knows left out."""
    problems: list[Problem] = field(default_factory=list)
    broken: set[KeyPath] = field(default_factory=set)
    """Paths whose values are no good."""


def find_faults(tree: Node) -> Findings:
    """Validate the whole tree. A misspelt field is one fault: it is read as meant, and its value is checked too."""
    findings = Findings(tree)
    told: set[KeyPath] = set()
    for _ in range(2):
        errors = _validate(findings.tree)
        unknown = [_path_of(error, findings.tree) for error in errors if error["type"] == "extra_forbidden"]
        if not unknown:
            break
        for path in unknown:
            _explain_unknown(path, findings, told)
    for error in _validate(findings.tree):
        _explain_value(error, findings, told)
    return findings


def _validate(tree: Node) -> list[ErrorDetails]:
    try:
        Recipe.model_validate(tree.plain())
    except ValidationError as error:
        return error.errors(include_url=False, include_input=False)
    return []


_TAGS = ("[key]", "[stage]", "[outside]", "[word]", "[mapping]")
"""Parts of pydantic's paths that are no keys of a recipe."""


def _path_of(error: ErrorDetails, tree: Node) -> KeyPath:
    """Pydantic writes ('stages', 'dpo', 'dpo', 'beta'), where the second 'dpo' is the kind and no key."""
    path = tuple(part for part in error["loc"] if part not in _TAGS)
    if path[:1] == ("model",) and path[1:2] in ((BLOCKS,), (OWN,)):  # which of the two ways to write it
        return path[:1] + path[2:]
    if path[2:4] == ("quality", "filters"):  # the kind of a filter; a list stands for {filters: list}
        listed = isinstance(tree.nearest(path[:3])[0].value, list)
        return path[:3] + path[3 + listed : 5] + path[6:]
    return path[:2] + path[3:] if path[:1] == ("stages",) else path


# --- fields that nobody knows -------------------------------------------------------------------------------------

_OTHER_WORDS: Mapping[str, str] = {
    "lr": "learning_rate",
    "batch_size": "global_batch_size",
    "train_batch_size": "global_batch_size",
    "dataset": "data",
    "datasets": "data",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "seq_len": "max_length",
    "block_size": "max_length",
    "n_layer": "num_hidden_layers",
    "n_layers": "num_hidden_layers",
    "num_layers": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_heads": "num_attention_heads",
    "num_heads": "num_attention_heads",
    "n_embd": "hidden_size",
    "d_model": "hidden_size",
    "dim": "hidden_size",
    "d_ff": "intermediate_size",
    "path": "files",
    "paths": "files",
    "file": "files",
    "base_model": "model",
    "ref_model": "model",
    "reward_model": "reward_funcs",
    "lr_scheduler": "lr_scheduler_type",
    "scheduler": "lr_scheduler_type",
    "warmup_ratio": "warmup_steps",
    "per_device_train_batch_size": "micro_batch_size",
    "save_steps": "checkpoint_every",
    "eval_steps": "evaluate_every",
    "gradient_checkpointing": "activation_checkpointing",
    "max_new_tokens": "max_completion_length",
}
_LENGTHS = {
    "epochs": "epochs",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "steps": "steps",
    "max_steps": "steps",
    "tokens": "tokens",
    "max_tokens": "tokens",
    "rollouts": "rollouts",
    "num_rollouts": "rollouts",
}
"""How other tools say how long to train."""


def _explain_unknown(path: KeyPath, findings: Findings, told: set[KeyPath]) -> None:
    parent, word = findings.tree.nearest(path[:-1])[0], str(path[-1])
    node = parent.child(word)
    section = section_at(path[:-1], findings.tree)
    if node is None or section is None:
        return
    known = _by_likelihood(section, parent)
    meant, message = _meaning_of(word, node, known, findings.tree)
    message = f"unknown field; {message}" if message else "unknown field"
    kind = parent.child("kind")
    if node.via.startswith("like") and kind is not None and not kind.via.startswith("like"):
        message += f" ({node.via})"  # right in the stage that it is copied from, which is of another kind
    findings.problems.append(_problem(findings.tree, path, message))
    fields = dict(parent.fields)
    fields.pop(word)
    if meant in _field_names(section) and meant not in fields:
        renamed = _LENGTHS.get(word)
        if renamed is None:
            fields[meant] = node
        told.add((*path[:-1], meant))
    else:
        findings.broken.add(path[:-1])
    findings.tree = _replaced(findings.tree, path[:-1], replace(parent, value=fields))


def _field_names(section: type[Section]) -> list[str]:
    names = list(section.model_fields)
    if section is Recipe:
        names.append("extends")
    return [*names, "like"] if issubclass(section, StageConfig) else names


def _by_likelihood(section: type[Section], parent: Node) -> dict[str, int]:
    """Field -> how unlikely it was meant: 0 where it is required and missing, 1 where it may stand here still, 2 where
    it is written already."""
    fields = section.model_fields
    return {
        name: 2 if parent.child(name) is not None else 0 if name in fields and fields[name].is_required() else 1
        for name in _field_names(section)
    }


def _meaning_of(word: str, node: Node, known: Mapping[str, int], tree: Node) -> tuple[str | None, str]:
    """The field that was meant, if it is one of this section, and the advice."""
    if slips := [name for name in known if is_typo(word, name)]:
        likely = [name for name in slips if known[name] == min(known[slip] for slip in slips)]
        close = closest(word, likely) or likely[0]
        return close, f"did you mean '{close}'?"
    if word in _LENGTHS and "duration" in known:
        amount = node.value if isinstance(node.value, int | float) else "..."
        return "duration", f"write `duration: {amount} {_LENGTHS[word]}`"
    if places := homes(word, tree):
        return None, f"it belongs {' or '.join(places)}"
    here = _OTHER_WORDS.get(word, word)
    if here in known:
        return here, f"here it is called '{here}'"
    if near := closest(here, known):
        return near, f"did you mean '{near}'?"
    if places := homes(here, tree):
        return None, f"it is called '{here}' and belongs {' or '.join(places)}"
    fields = ", ".join(name for name in known if name != "kind")
    return None, f"known are {fields}" if len(known) <= 12 else ""


def _replaced(tree: Node, path: KeyPath, node: Node) -> Node:
    if not path:
        return node
    key, *rest = path
    below = tree.child(key)
    if below is None:
        return tree
    below = _replaced(below, tuple(rest), node)
    if isinstance(tree.value, list):
        return replace(tree, value=[below if index == key else item for index, item in enumerate(tree.value)])
    return tree.having(str(key), below)


# --- values -------------------------------------------------------------------------------------------------------


def _explain_value(error: ErrorDetails, findings: Findings, told: set[KeyPath]) -> None:
    tree, path = findings.tree, _path_of(error, findings.tree)
    where = tree.nearest(path)[0]
    findings.broken.add(path)
    if error["type"] == "missing" and (path in told or where.refused or _missing_in_source(path, tree)):
        return
    if error["type"] == "value_error":
        _explain_own(error, path, findings)
        return
    if error["loc"][-1] == "[key]":
        message = "a name starts with a lower-case letter or digit, then a-z, 0-9, _ and -; at most 63 letters"
        findings.problems.append(Problem(*where.key, format_path(path), message))
        return
    if error["type"] == "missing":
        section = section_at(path[:-1], tree)
        purpose = first_sentence(docstrings(section).get(str(path[-1]), "")) if section else ""
        findings.problems.append(_problem(tree, path, f"is missing ({_lower(purpose)})" if purpose else "is missing"))
        return
    write = _WORDING.get(error["type"])
    message = write(error.get("ctx", {}), where) if write else f"does not fit: {error['msg']}, got {shown(where)}"
    findings.problems.append(_problem(tree, path, message))


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:] if sentence[1:2].islower() or sentence[1:2] == " " else sentence


def _missing_in_source(path: KeyPath, tree: Node) -> bool:
    """Whether a stage lacks a field because the one it is `like` lacks it, which is told there."""
    stage = tree.nearest(path[:2])[0]
    source = tree.nearest(("stages", stage.via.removeprefix("like ")))
    return len(path) == 3 and stage.via.startswith("like ") and len(source[1]) == 2 and not source[0].child(path[2])


def _explain_own(error: ErrorDetails, path: KeyPath, findings: Findings) -> None:
    """Faults that our own validators name; each is shown at the first field that it mentions."""
    tree = findings.tree
    section = section_at(path, tree)
    if path in findings.broken - {path}:
        return
    for message in error["ctx"]["error"].args:
        named = [word for word in re.findall(r"\w+", message) if section and word in section.model_fields]
        given = tree.nearest(path)[0]
        at = next((word for word in named if given.child(word) is not None), None)
        if at and message.startswith(f"{at}: "):
            message = message.removeprefix(f"{at}: ")
        findings.problems.append(_problem(tree, (*path, at) if at else path, message))


def _problem(tree: Node, path: KeyPath, message: str) -> Problem:
    node, reached = tree.nearest(path)
    if reached != path and not isinstance(node.value, dict):  # written short, as the bare name or item
        return Problem(*node.place, format_path(reached), message)
    place = node.key if reached != path or message.startswith("unknown field") else node.place
    return Problem(*place, format_path(path), message)


_Wording = Callable[[Mapping[str, Any], Node], str]


def _needs(what: str, hint: str = "") -> _Wording:
    def write(ctx: Mapping[str, Any], node: Node) -> str:
        return f"is empty; needs {what}" if node.value is None else f"needs {what}, got {shown(node)}{hint}"

    return write


def _bound(words: str, key: str) -> _Wording:
    return lambda ctx, node: f"must be {words} {_number(ctx[key])}, got {shown(node)}"


def _number(value: float) -> str:
    return f"{value:_}" if isinstance(value, int) else f"{value:g}"


def _text(ctx: Mapping[str, Any], node: Node) -> str:
    single = node.value is not None and not isinstance(node.value, dict | list)
    return _needs("text", "; put it in quotes" if single else "")(ctx, node)


def _true_or_false(ctx: Mapping[str, Any], node: Node) -> str:
    meant = {"yes": "true", "on": "true", "no": "false", "off": "false", "1": "true", "0": "false"}
    word = meant.get(str(node.value).lower())
    return _needs("true or false", f"; did you mean {word}?" if word else "")(ctx, node)


def _one_of(ctx: Mapping[str, Any], node: Node) -> str:
    known = re.findall(r"'([^']*)'", ctx["expected"])
    if isinstance(node.value, dict | list) or node.value is None:
        return _needs(f"one of {', '.join(known)}")(ctx, node)
    text = shown(node).strip("'")
    if len(known) == 1:
        return f"'{text}' is not known here; it can only be {known[0]}"
    return f"'{text}' is not one of {', '.join(known)}{did_you_mean(text, known)}"


_PATTERNS = {
    "^[a-z0-9][a-z0-9_-]{0,62}$": "a name of lower-case letters, digits, _ and -",
    "^[0-9a-f]{40}$": "a commit of 40 hex digits",
    r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$": "a dataset's name such as org/name",
    r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$": "a model's name such as org/name",
    r"^[A-Za-z0-9][\w./-]*$": "a task's name",
    r"^\S(.*\S)?$": "a word without spaces around it",
}


def _pattern(ctx: Mapping[str, Any], node: Node) -> str:
    return f"needs {_PATTERNS.get(ctx['pattern'], 'text of the form ' + ctx['pattern'])}, got {shown(node)}"


def _whole(ctx: Mapping[str, Any], node: Node) -> str:
    if isinstance(node.value, float) and math.isfinite(node.value) and node.value == int(node.value):
        return f"needs a whole number, got {shown(node)}; write {int(node.value)}"
    return _needs("a whole number")(ctx, node)


def _kind_of(node: Node) -> Node:
    return (node.child("kind") if isinstance(node.value, dict) else None) or node


def _block(ctx: Mapping[str, Any], node: Node) -> str:
    return _needs("a block of fields")(ctx, node)


_WORDING: Mapping[str, _Wording] = {
    "int_type": _whole,
    "int_from_float": _whole,
    "int_parsing": _whole,
    "int_parsing_size": _needs("a number with fewer digits"),
    "float_type": _needs("a number"),
    "float_parsing": _needs("a number"),
    "finite_number": _needs("a finite number"),
    "bool_type": _true_or_false,
    "string_type": _text,
    "string_pattern_mismatch": _pattern,
    "literal_error": _one_of,
    "union_tag_invalid": lambda ctx, node: _one_of({"expected": ctx["expected_tags"]}, _kind_of(node)),
    "union_tag_not_found": _needs("a kind"),
    "greater_than": _bound("above", "gt"),
    "greater_than_equal": _bound("at least", "ge"),
    "less_than": _bound("below", "lt"),
    "less_than_equal": _bound("at most", "le"),
    "dict_type": _needs("a mapping of names"),
    "tuple_type": _needs("a list"),
    "too_short": lambda ctx, node: "needs at least one entry",
    "model_type": _block,
    "model_attributes_type": _block,
    "dataclass_type": _block,
}
