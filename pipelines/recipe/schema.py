"""recipes/schema.json: what editors complete and check, made from the sections themselves."""

import json
from typing import Any

from pipelines.recipe.base import Section
from pipelines.recipe.docstrings import docstrings
from pipelines.recipe.quality import PRESETS
from pipelines.recipe.root import Recipe
from pipelines.recipe.sections import STAGES, sections_in

Schema = dict[str, Any]


def make_schema() -> Schema:
    """The JSON schema of a recipe file. It requires little, since `like` and `extends` fill in: `check` knows more."""
    schema = Recipe.model_json_schema(mode="validation", ref_template="#/definitions/{model}")
    definitions = schema.pop("$defs")
    _describe(schema, Recipe)
    for section in _all_sections():
        if section.__name__ in definitions:
            _describe(definitions[section.__name__], section)
    definitions["Duration"] = _DURATION
    for name, definition in definitions.items():
        definitions[name] = _tidied(definition)
    schema = _tidied(schema)
    fields = schema["properties"]
    fields["data"] = _named(fields["data"], {"anyOf": [{"$ref": "#/definitions/Dataset"}, {"type": "null"}]})
    fields["stages"] = {"description": fields["stages"]["description"], **_stages(definitions)}
    fields["launch"] = _or_word(fields["launch"], "launch")
    _loosen(definitions)
    fields["extends"] = {"type": "string", "description": "One parent recipe, relative to this file."}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Recipe",
        "description": (Recipe.__doc__ or "").strip(),
        "type": "object",
        "additionalProperties": False,
        "properties": fields,
        "if": {"not": {"required": ["extends"]}},
        "then": {"required": schema["required"]},
        "definitions": dict(sorted(definitions.items())),
    }


def schema_text() -> str:
    """As it stands in recipes/schema.json."""
    return json.dumps(make_schema(), indent=1, ensure_ascii=False) + "\n"


_NAMES: Schema = {"pattern": "^[a-z0-9][a-z0-9_-]{0,62}$"}
_DURATION: Schema = {
    "type": "string",
    "description": "How long to train, one value with its unit.",
    "pattern": r"^\s*[0-9][0-9_]*(\.[0-9]+)?\s*[kKMBGT]?\s*(tokens?|steps?|epochs?|rollouts?)\s*$",
    "examples": ["600M tokens", "2 epochs", "300 steps", "300 rollouts"],
}
_SIZE: Schema = {
    "anyOf": [
        {"type": "integer", "exclusiveMinimum": 0},
        {"type": "string", "pattern": r"^\s*[0-9][0-9_]*(\.[0-9]+)?\s*[kKMGT]?B\s*$", "examples": ["500 MB", "2 GB"]},
    ]
}
_SHARE: Schema = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*%\s*$", "examples": ["80%"]},
    ]
}


def _all_sections() -> list[type[Section]]:
    found: list[type[Section]] = []
    pending: list[type[Section]] = [Recipe, *STAGES.values()]
    while pending:
        section = pending.pop()
        if section not in found:
            found.append(section)
            pending += [inner for info in section.model_fields.values() for inner in sections_in(info.annotation)]
    return found


def _describe(schema: Schema, section: type[Section]) -> None:
    schema["description"] = " ".join((section.__doc__ or "").split())
    for field, text in docstrings(section).items():
        if field in schema.get("properties", {}):
            schema["properties"][field]["description"] = " ".join(text.split())


def _tidied(schema: Any) -> Any:
    """Without the titles that pydantic adds, and `$ref` with neighbours as draft 7 wants it."""
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = [(key, value) for key, value in schema.items() if key != "discriminator"]  # of OpenAPI, no word of a schema
    out = {key: _tidied(value) for key, value in kept if not (key == "title" and isinstance(value, str))}
    if "oneOf" in out:  # of a word and a block only one can fit anyway
        out["anyOf"] = out.pop("oneOf")
    if "$ref" in out and len(out) > 1:
        out = {"allOf": [{"$ref": out.pop("$ref")}], **out}
    return out


def _loosen(definitions: Schema) -> None:
    """What may be written shorter than it is held, and what another layer may bring."""
    for name in (section.__name__ for section in STAGES.values()):
        fields = definitions[name]["properties"]
        definitions[name].pop("required", None)
        if name != "EvaluateStage":
            fields["data"] = _mixture(fields["data"].get("description", ""))
    for name, field in (("Phase", "start"), ("LengthWarmup", "until")):
        fields = definitions[name]["properties"]
        fields[field] = {"description": fields[field]["description"]} | _SHARE
    fields = definitions["Phase"]["properties"]
    fields["data"] = _mixture(fields["data"].get("description", ""))
    definitions["ModelConfig"].pop("required", None)
    evaluate, dataset = definitions["EvaluateStage"]["properties"], definitions["Dataset"]["properties"]
    dataset["files"] = _or_item(dataset["files"], {"type": "string"})
    dataset["deduplicate"] = _or_item(dataset["deduplicate"], {"type": "boolean"})
    dataset["decontaminate"] = _or_item(dataset["decontaminate"], {"enum": ["drop", "tell"]})
    evaluate["models"] = _or_item(evaluate["models"], evaluate["models"]["items"])
    task = {"anyOf": [{"type": "string"}, {"$ref": "#/definitions/TaskConfig"}]}
    evaluate["tasks"] = _or_item(evaluate["tasks"] | {"items": task}, task)
    words = definitions["TaskConfig"]["properties"]["words"]
    definitions["TaskConfig"]["properties"]["words"] = _or_item(words, words["items"])
    _loosen_tokenizer(definitions["TokenizerStage"]["properties"])
    _loosen_quality(definitions)
    launches = definitions["Launch"]["properties"]["stages"]
    definitions["Launch"]["properties"]["stages"] = _named(
        launches, _or_word({"$ref": "#/definitions/StageLaunch"}, "a launch file")
    )


def _mixture(description: str) -> Schema:
    """One dataset's name, several, or names with shares."""
    shares = {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}}
    names = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    return {"description": description, "anyOf": [{"type": "string"}, names, shares]}


def _loosen_tokenizer(fields: Schema) -> None:
    fields["max_bytes"] = {"description": fields["max_bytes"]["description"], **_SIZE}
    count = {"type": "string", "pattern": r"^\s*[0-9][0-9_]*\s*[kM]\s*$"}
    fields["vocab_size"]["anyOf"].append(count)
    fields["sweep"] |= {"items": {"anyOf": [fields["sweep"]["items"], count]}}
    for name in ("normalizer", "special_tokens", "compare", "sweep"):
        fields[name] = _or_item(fields[name], fields[name]["items"])


def _loosen_quality(definitions: Schema) -> None:
    """A preset, a filter's bare kind, or a list of filters; or these as a field beside others."""
    filters, quality = definitions["Quality"]["properties"]["filters"], definitions["Dataset"]["properties"]["quality"]
    blocks = filters["items"]["anyOf"]
    kinds = [definitions[block["$ref"].rpartition("/")[2]]["properties"]["kind"]["const"] for block in blocks]
    one = {"anyOf": [{"enum": kinds}, *blocks]}
    chosen = [{"enum": [*PRESETS, *kinds]}, {"type": "array", "items": one, "minItems": 1}]
    definitions["Quality"]["properties"]["filters"] = {"description": filters["description"], "anyOf": chosen}
    definitions["Dataset"]["properties"]["quality"] = quality | {"anyOf": [*chosen, *quality["anyOf"]]}


def _named(schema: Schema, entry: Schema) -> Schema:
    """A mapping of free names."""
    description = schema.get("description", "")
    return {"description": description, "type": "object", "additionalProperties": entry, "propertyNames": _NAMES}


def _or_word(schema: Schema, meaning: str) -> Schema:
    description = schema.pop("description", meaning)
    return {"description": description, "anyOf": [{"type": "string"}, schema]}


def _or_item(schema: Schema, item: Schema) -> Schema:
    description = schema.pop("description", "")
    return {"description": description, "anyOf": [item, schema]}


def _stages(definitions: Schema) -> Schema:
    """A stage named as a kind is of that kind; any other says its kind, or is like another."""
    for kind, section in STAGES.items():
        fields = definitions[section.__name__]["properties"]
        fields["kind"] = {"const": kind, "description": "What this stage does; its name says it too."}
        fields["like"] = {"type": "string", "description": "A stage to copy; the fields given here lie over it."}
    refs = {kind: {"$ref": f"#/definitions/{section.__name__}"} for kind, section in STAGES.items()}
    of_kind = [{"if": _is_kind(kind), "then": ref} for kind, ref in refs.items()]
    no_kind = {"if": {"not": {"required": ["kind"]}}, "then": {"$ref": "#/definitions/LikeStage"}}
    known = {"properties": {"kind": {"enum": list(STAGES)}}}
    definitions["LikeStage"] = _like(definitions)
    definitions["AnyStage"] = {"type": ["object", "null"], "allOf": [known, *of_kind, no_kind]}
    says = {"anyOf": [{"required": ["kind"]}, {"required": ["like"]}]}
    named = {kind: {"if": says, "then": {"$ref": "#/definitions/AnyStage"}, "else": ref} for kind, ref in refs.items()}
    return {
        "type": "object",
        "properties": named,
        "additionalProperties": {"$ref": "#/definitions/AnyStage"},
        "propertyNames": _NAMES,
    }


def _is_kind(kind: str) -> Schema:
    return {"properties": {"kind": {"const": kind}}, "required": ["kind"]}


def _like(definitions: Schema) -> Schema:
    """Any field of any stage: which ones fit depends on the stage that is copied."""
    fields: Schema = {}
    for section in STAGES.values():
        for field, schema in definitions[section.__name__]["properties"].items():
            fields.setdefault(field, {"description": schema.get("description", "")})
    fields["like"] = {"type": "string", "description": "A stage to copy; the fields given here lie over it."}
    return {"type": ["object", "null"], "required": ["like"], "additionalProperties": False, "properties": fields}
