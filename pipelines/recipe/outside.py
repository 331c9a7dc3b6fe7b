"""Models made elsewhere, as far as their folder says what they are: nothing of it is run, and no weights are read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.recipe.base import ArtifactKind, OutsideModel

# Mirrors `custom_models.stock_maps.MAPS`; a test keeps the two equal.
STOCK: Mapping[str, ArtifactKind] = {
    "LlamaForCausalLM": ArtifactKind.CAUSAL_LM,
    "MistralForCausalLM": ArtifactKind.CAUSAL_LM,
    "Qwen3ForCausalLM": ArtifactKind.CAUSAL_LM,
    "StableLmForCausalLM": ArtifactKind.CAUSAL_LM,
    "GPT2LMHeadModel": ArtifactKind.CAUSAL_LM,
    "BertForMaskedLM": ArtifactKind.MASKED_LM,
    "T5ForConditionalGeneration": ArtifactKind.SEQ2SEQ_LM,
}
"""Classes of transformers that our blocks can be."""
OURS: Mapping[str, ArtifactKind] = {
    "DecoderForCausalLM": ArtifactKind.CAUSAL_LM,
    "EncoderForMaskedLM": ArtifactKind.MASKED_LM,
    "EncoderDecoderForConditionalGeneration": ArtifactKind.SEQ2SEQ_LM,
}
ENDINGS: Mapping[str, ArtifactKind] = {
    "ForCausalLM": ArtifactKind.CAUSAL_LM,
    "ForMaskedLM": ArtifactKind.MASKED_LM,
    "ForConditionalGeneration": ArtifactKind.SEQ2SEQ_LM,
    "ForSequenceClassification": ArtifactKind.CLASSIFIER,
}
"""Of the classes that stages leave; a reward model is a classifier of one score."""


def class_of(folder: Path) -> str | None:
    """The class that a model's folder names; None where it names none, or several."""
    match _settings(folder, "config.json").get("architectures"):
        case [str(name)]:
            return name
    return None


def kind_of(folder: Path) -> ArtifactKind | None:
    """What a model made elsewhere is; None where that is not known, or nothing that stages start from."""
    name = class_of(folder) or ""
    return STOCK.get(name) or OURS.get(name)


def kind_left(folder: Path) -> ArtifactKind | None:
    """What a stage of ours left in a folder, also in a class of the researcher's own; None where it is an adapter."""
    name = class_of(folder) or ""
    return next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)


def positions_of(folder: Path) -> int | None:
    """Most tokens of a row that a model made elsewhere reads; None where its config.json does not say it."""
    name = {"GPT2LMHeadModel": "n_positions", "T5ForConditionalGeneration": ""}.get(class_of(folder) or "")
    found = _settings(folder, "config.json").get("max_position_embeddings" if name is None else name)
    return found if isinstance(found, int) else None


def fault_in(source: OutsideModel, folder: Path) -> str | None:
    """Why a folder is no model to start from, if it is none; `folder` has what `missing_of_model` asks for."""
    name = class_of(folder)
    if name not in STOCK and name not in OURS:
        known = ", ".join(STOCK)
        return f"'{source}' is {name or 'of no class'}, which is nothing that our blocks can be; those are {known}"
    files = ("config.json", "tokenizer_config.json")
    code = next((file for file in files if _settings(folder, file).get("auto_map")), None)
    if code and name not in OURS and not source.ignore_remote_code:
        return (
            f"'{source}' brings code of its own ({code}: auto_map), which is never run; ignore_remote_code: true reads "
            f"its weights as {name} of transformers, without that code"
        )
    return None


def _settings(folder: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
