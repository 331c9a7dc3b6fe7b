"""Transformers of the researcher's own: their file is imported as it is, and known to transformers' Auto classes.

What a stage saves carries the code (transformers copies it and writes `auto_map`), so later stages import it from the
artifact that they start from. Such code can only come from a file that a recipe names by `python:`; weights from
outside bring none."""

import hashlib
import importlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

import custom_models
from pipelines.errors import Problem, RecipeError
from pipelines.recipe.own_model import OwnModel

AUTO_CLASSES: tuple[tuple[str, Any], ...] = (
    ("ForCausalLM", AutoModelForCausalLM),
    ("Model", AutoModel),
    ("ForSequenceClassification", AutoModelForSequenceClassification),
)
"""Ending of a class's name -> the Auto class that finds it."""
ATOL = 1e-4


def own_class(model: OwnModel) -> type[PreTrainedModel]:
    """`ThingForCausalLM` of the recipe's file, registered."""
    return register(Path(model.python), model.class_name)


def register_own_code(folders: Iterable[Path]) -> None:
    """Make the models in these folders known, where they are none of ours."""
    for folder in folders:
        config = folder / "config.json"
        values = json.loads(config.read_text(encoding="utf-8")) if config.exists() else {}
        where = values.get("auto_map", {}).get("AutoConfig")
        if where is not None and values["model_type"] not in _OURS:
            stem, name = where.split(".")
            register(folder / f"{stem}.py", name)


_OURS = {
    config.model_type
    for config in (custom_models.DecoderConfig, custom_models.EncoderConfig, custom_models.EncoderDecoderConfig)
}


def register(file: Path, config_name: str) -> type[PreTrainedModel]:
    """Import a file and tell transformers of its configuration `ThingConfig` and of `ThingModel`, `ThingForCausalLM`
    and `ThingForSequenceClassification`; the last two are saved with the code. Returns `ThingForCausalLM`."""
    module = _imported(file)
    config: Any = getattr(module, config_name)
    AutoConfig.register(config.model_type, config, exist_ok=True)
    config.register_for_auto_class()
    for ending, auto in AUTO_CLASSES:
        model = getattr(module, config_name.removesuffix("Config") + ending, None)
        if model is not None:
            auto.register(config, model, exist_ok=True)
            model.register_for_auto_class(auto.__name__)
    return getattr(module, config_name.removesuffix("Config") + "ForCausalLM")


def _imported(file: Path) -> ModuleType:
    """As a module of a package that is its folder, so that it may import what lies beside it."""
    folder = file.resolve().parent
    if folder == Path(custom_models.__file__).parent:
        return importlib.import_module(f"custom_models.{file.stem}")
    name = f"own_models_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    return importlib.import_module(f"{name}.{file.stem}")


@torch.no_grad()
def check_own_model(model: PreTrainedModel) -> None:
    """What training takes for granted: a token does not see what comes after it, nor other documents of its row; and
    generation with a cache says what it says without. RecipeError, naming what does not hold."""
    was_training = model.training
    model.eval()
    ids = torch.arange(12)[None] % (model.config.vocab_size - 1)
    whole = _logits(model, ids)
    changed = torch.cat([ids[:, :-1], ids[:, -1:] + 1], dim=1)
    if not torch.allclose(_logits(model, changed)[:, :-1], whole[:, :-1], atol=ATOL):
        raise _unfit(model, "a token sees what comes after it")
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None]
    apart = torch.cat([_logits(model, ids[:, :5]), _logits(model, ids[:, 5:])], dim=1)
    if not torch.allclose(_logits(model, ids, position_ids=positions), apart, atol=ATOL):
        raise _unfit(
            model,
            "documents in one row see each other; position_ids restart with each of them, and the mask must follow "
            "(transformers' create_causal_mask does)",
        )
    first = model(input_ids=ids[:, :8], use_cache=True)
    if getattr(first, "past_key_values", None) is None:
        raise _unfit(model, "gives no past_key_values with use_cache=True, so it cannot generate")
    rest = model(input_ids=ids[:, 8:], past_key_values=first.past_key_values, use_cache=True)
    if not torch.allclose(rest.logits, whole[:, 8:], atol=ATOL):
        raise _unfit(model, "its logits with a cache are not those without")
    model.train(was_training)


def _unfit(model: PreTrainedModel, message: str) -> RecipeError:
    file = str(sys.modules[type(model).__module__].__file__)
    return RecipeError([Problem(file, 1, 1, "model.python", f"{type(model).__name__}: {message}")])


def _logits(model: PreTrainedModel, ids: torch.Tensor, position_ids: torch.Tensor | None = None) -> torch.Tensor:
    return model(input_ids=ids, position_ids=position_ids, use_cache=False).logits
