"""To and from transformers' own classes, weight by weight: a decoder is a Llama, an encoder a BERT, where its blocks
are. The maps are in `stock_maps`."""
# mypy: no-strict-optional

import copy
import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from .decoder import DecoderForCausalLM
from .encoder import EncoderForMaskedLM
from .encoder_decoder import EncoderDecoderForConditionalGeneration
from .stock_classifiers import CLASSIFIERS
from .stock_fields import NoPlace, Rename
from .stock_maps import MAPS, StockMap

OURS = (DecoderForCausalLM, EncoderForMaskedLM, EncoderDecoderForConditionalGeneration)
"""Language models that have maps."""
Model = TypeVar("Model", bound=PreTrainedModel)


class NotFinite(ValueError):
    """Weights that are no numbers; the message names the first ones."""


def obstacles(config: PreTrainedConfig, our_models: Collection[type[PreTrainedModel]] = OURS) -> dict[str, list[str]]:
    """Class of transformers -> `field: value has no place in it` for all that is in the way; [] where nothing is.
    Those of language models are looked at, or those that stand for one of `our_models`."""
    found: dict[str, list[str]] = {}
    for stock in (*MAPS, *CLASSIFIERS):
        if stock.our_config is not type(config) or stock.our_model not in our_models:
            continue
        reasons = []
        try:
            stock.settings(config)
        except NoPlace as error:
            reasons = error.reasons
        found[stock.name] = [f"{reason} has no place in {stock.name}" for reason in reasons]
    return found


def to_stock(model: PreTrainedModel, name: str | None = None) -> PreTrainedModel:
    """The same model as a class of transformers, the first that fits or the one named; it shares no weights.

    NoPlace where none fits, with what is in the way of the class that comes closest."""
    found = obstacles(model.config, (type(model),))
    if not found:
        raise NoPlace([f"class: {type(model).__name__} has no like in transformers"])
    name = name or min(found, key=lambda one: len(found[one]))
    if found[name]:
        raise NoPlace(found[name])
    stock = _map_of(name)
    config = stock.config_class(**stock.settings(model.config), dtype=model.dtype)
    weights = to_their_names(model.state_dict(), stock.names(model.config))
    return _with_weights(stock.model_class, config, weights, model)


def from_stock(source: PreTrainedModel | Path) -> PreTrainedModel:
    """A model of transformers, or the folder of one, in our blocks; a folder's weights become float32.

    NoPlace where our blocks have no words for it, or the folder needs more than its config and safetensors; OSError
    where there are none; NotFinite where a weight is no finite number. No code of the folder is run. Weights are not
    shared with `source`."""
    model = _open(source) if isinstance(source, Path) else source
    if bad := [name for name, weight in model.named_parameters() if not bool(weight.isfinite().all())]:
        raise NotFinite(f"{', '.join(bad[:3])}{' and others' if len(bad) > 3 else ''}: not all finite numbers")
    if isinstance(model, OURS):
        return model
    stock = _map_of(type(model).__name__)
    config = stock.read(model.config)
    weights = to_our_names(model.state_dict(), stock.names(config))
    made = _with_weights(stock.our_model, config, weights, model)
    if "lm_head.weight" in _lost(weights, made):  # T5 1.1: its class says that the head is the embeddings
        config.tie_word_embeddings = False
        made = _with_weights(stock.our_model, config, weights, model)
    if lost := _lost(weights, made):
        raise NoPlace([f"{lost[0]}: weights of its own where {stock.name} shares those of another"])
    return made


def _lost(weights: Mapping[str, Tensor], model: PreTrainedModel) -> list[str]:
    """Names of weights that a model does not hold, since it shares others there."""
    kept = model.state_dict()
    return [name for name, weight in weights.items() if not torch.equal(weight, kept[name])]


def _open(folder: Path) -> PreTrainedModel:
    architectures = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    name = architectures[0] if len(architectures) == 1 else ", ".join(architectures) or "no architectures"
    model_class: Any = next((ours for ours in OURS if ours.__name__ == name), None)
    if model_class is None:
        stock = _map_of(name)
        stock.read(stock.config_class.from_pretrained(folder))  # before weights of other shapes fail in other words
        model_class = stock.model_class
    model, loading = model_class.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
    )
    loading["mismatched_keys"] = [
        f"{key} {tuple(found)}, and config.json makes it {tuple(wanted)}"
        for key, found, wanted in loading["mismatched_keys"]
    ]
    if model_class not in OURS:
        others = re.compile("|".join(_map_of(name).other_heads) or "$^")
        loading["unexpected_keys"] = [key for key in loading["unexpected_keys"] if not others.search(key)]
    if odd := {kind: sorted(map(str, keys))[:3] for kind, keys in loading.items() if keys}:
        raise NoPlace(f"{kind.replace('_', ' ')}: {', '.join(keys)}" for kind, keys in odd.items())
    return model


def left_out(config: PreTrainedConfig, name: str) -> list[str]:
    """What a class that fits does not keep: settings of training, as `field: value`."""
    stock = _map_of(name)
    back = stock.read(stock.config_class(**stock.settings(config)))
    fields = [field for part in stock.parts for field in part.ours]
    return [f"{field}: {getattr(config, field)}" for field in fields if getattr(back, field) != getattr(config, field)]


def to_their_names(weights: Mapping[str, Tensor], names: Iterable[Rename]) -> dict[str, Tensor]:
    """Our parameters, or their gradients, under their names; what is not given is left out."""
    found: dict[str, Tensor] = {}
    for name in names:
        if all(our in weights for our in name.ours):
            joined = torch.cat([weights[our] for our in name.ours])
            found[name.theirs] = (joined.T if name.is_transposed else joined).contiguous()
    return found


def to_our_names(weights: Mapping[str, Tensor], names: Iterable[Rename]) -> dict[str, Tensor]:
    """The way back, bit for bit."""
    found: dict[str, Tensor] = {}
    for name in names:
        if name.theirs in weights:
            joined = weights[name.theirs]
            parts = (joined.T if name.is_transposed else joined).chunk(len(name.ours))
            found |= {our: part.clone() for our, part in zip(name.ours, parts, strict=True)}
    return found


def _with_weights(
    model_class: type[Model], config: PreTrainedConfig, weights: Mapping[str, Tensor], like: PreTrainedModel
) -> Model:
    with no_init_weights():  # nobody's random numbers are drawn
        model = model_class(config)
    model.load_state_dict(weights, strict=True)
    nn.Module.to(model, like.device, like.dtype)
    model.train(like.training)
    model.tie_weights()
    if hasattr(like, "generation_config"):  # what an encoder does not have
        model.generation_config = copy.deepcopy(like.generation_config)
    return model


def _map_of(name: str) -> StockMap:
    for stock in (*MAPS, *CLASSIFIERS):
        if stock.name == name:
            return stock
    raise NoPlace([f"{name} (there are maps for {', '.join(stock.name for stock in MAPS)})"])
