"""recipes/schema.json: fresh, and right about the recipes that are shipped."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from pipelines.recipe.schema import make_schema, schema_text
from pipelines.recipe.sections import STAGES
from pipelines.recipe.tree import read_tree

RECIPES = Path(__file__).parents[2] / "recipes"
SCHEMA = make_schema()


def faults(value: Any, schema: Any, path: str = "") -> list[str]:
    """A JSON-schema check of the words that our schema uses; any other word fails the test."""
    known = {"$schema", "title", "description", "default", "examples", "definitions"}
    found: list[str] = []
    for word, rule in schema.items() if isinstance(schema, dict) else ():
        if word == "$ref":
            found += faults(value, SCHEMA["definitions"][rule.removeprefix("#/definitions/")], path)
        elif word == "allOf":
            found += [fault for part in rule for fault in faults(value, part, path)]
        elif word == "anyOf":
            options = [faults(value, part, path) for part in rule]
            found += [] if [] in options else min(options, key=len)
        elif word == "if":
            found += faults(value, schema.get("else" if faults(value, rule, path) else "then", {}), path)
        elif word == "not":
            found += [] if faults(value, rule, path) else [f"{path}: not"]
        elif word in _RULES:
            found += [f"{path}: {word} {rule}"] if not _RULES[word](value, rule) else []
        elif word in ("properties", "additionalProperties", "propertyNames") and isinstance(value, dict):
            found += _of_fields(value, schema, word, path)
        elif word == "items" and isinstance(value, list):
            found += [fault for i, item in enumerate(value) for fault in faults(item, rule, f"{path}[{i}]")]
        else:
            assert word in known | {"then", "else", "properties", "additionalProperties", "propertyNames", "items"}, (
                word
            )
    return found


def _of_fields(value: dict[str, Any], schema: Any, word: str, path: str) -> list[str]:
    rule = schema[word]
    if word == "properties":
        return [fault for key in value.keys() & rule.keys() for fault in faults(value[key], rule[key], f"{path}.{key}")]
    if word == "propertyNames":
        return [fault for key in value for fault in faults(key, rule, f"{path}.{key}")]
    others = value.keys() - schema.get("properties", {}).keys()
    if rule is False:
        return [f"{path}.{key}: unknown" for key in others]
    return [fault for key in others for fault in faults(value[key], rule, f"{path}.{key}")]


_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}


def _is_type(value: Any, names: Any) -> bool:
    numeric = isinstance(value, bool)
    kinds = [names] if isinstance(names, str) else names
    return any(isinstance(value, _TYPES[kind]) and not (numeric and kind in ("integer", "number")) for kind in kinds)


def _number(value: Any) -> bool:
    return isinstance(value, int | float)


_RULES: dict[str, Any] = {
    "type": _is_type,
    "const": lambda value, rule: value == rule,
    "enum": lambda value, rule: value in rule,
    "required": lambda value, rule: not isinstance(value, dict) or set(rule) <= value.keys(),
    "pattern": lambda value, rule: not isinstance(value, str) or re.search(rule, value),
    "minimum": lambda value, rule: not _number(value) or value >= rule,
    "maximum": lambda value, rule: not _number(value) or value <= rule,
    "exclusiveMinimum": lambda value, rule: not _number(value) or value > rule,
    "exclusiveMaximum": lambda value, rule: not _number(value) or value < rule,
    "minItems": lambda value, rule: not isinstance(value, list) or len(value) >= rule,
    "maxItems": lambda value, rule: not isinstance(value, list) or len(value) <= rule,
    "minLength": lambda value, rule: not isinstance(value, str) or len(value) >= rule,
}


def recipe(name: str) -> Any:
    return json.loads(json.dumps(read_tree(RECIPES / name, []).plain()))


def test_the_file_is_what_the_verb_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == schema_text()


def test_the_file_is_what_the_sections_say() -> None:
    assert (RECIPES / "schema.json").read_text() == schema_text(), "run `make schema`"


@pytest.mark.parametrize("name", sorted(path.name for path in RECIPES.glob("*.yaml")))
def test_every_shipped_recipe_validates_and_names_the_schema(name: str) -> None:
    assert faults(recipe(name), SCHEMA) == []
    assert (RECIPES / name).read_text().startswith("# yaml-language-server: $schema=schema.json\n")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda it: it.update(modle={}), ".modle: unknown"),
        (lambda it: it.pop("name"), ": required"),
        (lambda it: it["stages"]["dpo"].update(beat=1), ".stages.dpo.beat: unknown"),
        (lambda it: it["stages"].update(extra={"beta": 1}), ".stages.extra: required ['like']"),
        (lambda it: it["stages"].update(extra={"kind": "sft", "beta": 1}), ".stages.extra.beta: unknown"),
        (lambda it: it["stages"].update(extra={"kind": "stf"}), ".stages.extra.kind: enum"),
        (lambda it: it["stages"].update(extra={"like": "dpo", "betta": 1}), ".stages.extra.betta: unknown"),
        (lambda it: it["stages"]["pretrain"].update(duration="5"), ".stages.pretrain.duration: pattern"),
        (lambda it: it["stages"]["pretrain"].update(learning_rate=0), ".stages.pretrain.learning_rate: exclusiveMin"),
        (lambda it: it["data"]["village"].update(holdot=0), ".data.village.holdot: unknown"),
        (lambda it: it["model"].update(style="lama"), ".model.style: enum"),
        (lambda it: it["data"]["village"].update(quality="wbe"), ".data.village.quality: enum"),
    ],
)
def test_an_editor_sees_the_mistakes_that_one_place_shows(change: Any, fault: str) -> None:
    changed = recipe("demo.yaml")
    change(changed)
    found = faults(changed, SCHEMA)
    assert len(found) == 1 and found[0].startswith(fault.split(" required")[0])
    assert fault in found[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it["stages"].update(extra={"like": "dpo", "beta": 1}),
        lambda it: it["stages"].update(extra={"kind": "sft", "like": "sft"}),
        lambda it: it.update(launch={"config": "cpu", "stages": {"sft": "cpu-2"}}),
        lambda it: it["stages"]["evaluate"].update(models="sft", tasks="blimp"),
        lambda it: it["stages"]["tokenizer"].update(max_bytes="2 GB"),
        lambda it: it["stages"]["tokenizer"].update(sweep=["4k", 8000], normalizer="nfc", compare={"hub": "org/name"}),
        lambda it: it["stages"]["pretrain"].update(duration="600M tokens", data={"village": 1}),
        lambda it: it["stages"]["pretrain"].update(phases=[{"start": "80%", "data": ["village", "more"]}]),
        lambda it: it["stages"]["pretrain"].update(length_warmup={"start": 16, "until": "20%"}),
        lambda it: it["data"]["village"].update(quality="web"),
        lambda it: it["data"]["village"].update(quality=["repair", {"kind": "length", "min_words": 9}]),
        lambda it: it["data"]["village"].update(quality={"filters": "repair", "dry_run": True}),
        lambda it: [it.pop(key) for key in ("name", "data", "model")] and it.update(extends="demo.yaml"),
    ],
)
def test_short_forms_and_layers_are_no_mistakes_to_an_editor(change: Any) -> None:
    changed = recipe("demo.yaml")
    change(changed)
    assert faults(changed, SCHEMA) == []


def test_editors_complete_and_explain_every_field() -> None:
    definitions = SCHEMA["definitions"]
    for section in STAGES.values():
        fields = definitions[section.__name__]["properties"]
        assert set(section.model_fields) <= set(fields)
        assert [field for field, schema in fields.items() if not schema.get("description")] == []
    assert set(STAGES) <= set(SCHEMA["properties"]["stages"]["properties"])
