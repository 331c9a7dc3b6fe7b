"""To and from transformers' own classes, weight by weight: our decoder is a Llama, a GPT-2, ... where its blocks are.

A map is a row of `MAPS`: settings as parts that each translate some fields both ways, and names of parameters. Those
of another family (an encoder and BERT, say) are further rows.
"""
# mypy: no-strict-optional

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)
from transformers.initialization import no_init_weights

from .configuration import DecoderConfig
from .decoder import DecoderForCausalLM
from .stock_fields import (
    NoPlace,
    Part,
    Values,
    always,
    choice,
    feed_forward_width,
    head_dim_by_width,
    in_training_only,
    no_window,
    one_window,
    only,
    rope,
    same,
    ungrouped,
    unread,
    windows_by_layer,
)

Model = TypeVar("Model", bound=PreTrainedModel)


@dataclass(frozen=True)
class Rename:
    """A parameter of theirs and those of ours that it holds, one under the other; transposed where they say so."""

    theirs: str
    ours: tuple[str, ...]
    is_transposed: bool = False


@dataclass(frozen=True)
class StockMap:
    """One class of transformers in our blocks."""

    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]
    parts: tuple[Part, ...]
    names: Callable[[DecoderConfig], list[Rename]]
    unused: tuple[str, ...] = ()
    """Settings of theirs that decide nothing of a language model."""

    @property
    def name(self) -> str:
        return self.model_class.__name__

    def settings(self, config: DecoderConfig) -> Values:
        """Their settings of our configuration; NoPlace with every field in the way."""
        return _joined([part.write for part in self.parts], config)

    def read(self, config: PreTrainedConfig) -> DecoderConfig:
        """Our configuration of theirs; NoPlace with every field that none of our blocks knows."""
        known = {name for part in self.parts for name in part.theirs} | _ANYWHERE | set(self.unused)
        unknown = {name: value for name, value in config.to_dict().items() if name not in known and value}
        reasons = [f"{name}: {value}" for name, value in unknown.items()]
        try:
            values = _joined([part.read for part in self.parts], config)
        except NoPlace as error:
            raise NoPlace([*error.reasons, *reasons]) from None
        if reasons:
            raise NoPlace(reasons)
        return DecoderConfig(**values)


def obstacles(config: DecoderConfig) -> dict[str, list[str]]:
    """Class of transformers -> `field: value has no place in it` for all that is in the way; [] where nothing is."""
    found: dict[str, list[str]] = {}
    for stock in MAPS:
        reasons = []
        try:
            stock.settings(config)
        except NoPlace as error:
            reasons = error.reasons
        found[stock.name] = [f"{reason} has no place in {stock.name}" for reason in reasons]
    return found


def to_stock(model: DecoderForCausalLM, name: str | None = None) -> PreTrainedModel:
    """The same model as a class of transformers, the first that fits or the one named; it shares no weights.

    NoPlace where none fits, with what is in the way of the class that comes closest."""
    found = obstacles(model.config)
    name = name or min(found, key=lambda one: len(found[one]))
    if found[name]:
        raise NoPlace(found[name])
    stock = next(one for one in MAPS if one.name == name)
    config = stock.config_class(**stock.settings(model.config), dtype=model.dtype)
    weights = to_their_names(model.state_dict(), stock.names(model.config))
    return _with_weights(stock.model_class, config, weights, model)


def from_stock(source: PreTrainedModel | Path) -> DecoderForCausalLM:
    """A model of transformers, or the folder of one, in our blocks; a folder's weights become float32.

    NoPlace where our blocks have no words for it, or the folder needs more than its config and safetensors; OSError
    where there are none. No code of the folder is run. Weights are not shared with `source`."""
    model = _open(source) if isinstance(source, Path) else source
    if isinstance(model, DecoderForCausalLM):
        return model
    stock = _map_of(type(model).__name__)
    config = stock.read(model.config)
    weights = to_our_names(model.state_dict(), stock.names(config))
    return _with_weights(DecoderForCausalLM, config, weights, model)


def _open(folder: Path) -> PreTrainedModel:
    architectures = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    name = architectures[0] if len(architectures) == 1 else ", ".join(architectures) or "no architectures"
    model_class: Any = DecoderForCausalLM
    if name != model_class.__name__:
        stock = _map_of(name)
        stock.read(stock.config_class.from_pretrained(folder))  # before weights of other shapes fail in other words
        model_class = stock.model_class
    model, loading = model_class.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    if odd := {kind: sorted(map(str, keys))[:3] for kind, keys in loading.items() if keys}:
        raise NoPlace(f"{kind.replace('_', ' ')}: {', '.join(keys)}" for kind, keys in odd.items())
    return model


def left_out(config: DecoderConfig, name: str) -> list[str]:
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
    model.generation_config = copy.deepcopy(like.generation_config)
    return model


def _joined(translate: Iterable[Callable[[PreTrainedConfig], Values]], config: PreTrainedConfig) -> Values:
    values: Values = {}
    reasons: list[str] = []
    for one in translate:
        try:
            values |= one(config)
        except NoPlace as error:
            reasons += error.reasons
    if reasons:
        raise NoPlace(reasons)
    return values


def _map_of(name: str) -> StockMap:
    for stock in MAPS:
        if stock.name == name:
            return stock
    raise NoPlace([f"{name} (there are maps for {', '.join(stock.name for stock in MAPS)})"])


def _same_names(config: DecoderConfig) -> list[Rename]:
    with torch.device("meta"):
        return [Rename(name, (name,)) for name in DecoderForCausalLM(config).state_dict()]


def _gpt2_names(config: DecoderConfig) -> list[Rename]:
    names = [
        Rename("transformer.wte.weight", ("model.embed_tokens.weight",)),
        Rename("transformer.wpe.weight", ("model.embed_positions.weight",)),
        Rename("lm_head.weight", ("lm_head.weight",)),
    ]
    for kind in ("weight", "bias"):
        names.append(Rename(f"transformer.ln_f.{kind}", (f"model.norm.{kind}",)))
        for layer in range(config.num_hidden_layers):
            theirs, ours, is_matrix = f"transformer.h.{layer}", f"model.layers.{layer}", kind == "weight"
            fused = tuple(f"{ours}.self_attn.{part}_proj.{kind}" for part in "qkv")
            names += [
                Rename(f"{theirs}.ln_1.{kind}", (f"{ours}.input_layernorm.{kind}",)),
                Rename(f"{theirs}.attn.c_attn.{kind}", fused, is_matrix),
                Rename(f"{theirs}.attn.c_proj.{kind}", (f"{ours}.self_attn.o_proj.{kind}",), is_matrix),
                Rename(f"{theirs}.ln_2.{kind}", (f"{ours}.post_attention_layernorm.{kind}",)),
                Rename(f"{theirs}.mlp.c_fc.{kind}", (f"{ours}.mlp.up_proj.{kind}",), is_matrix),
                Rename(f"{theirs}.mlp.c_proj.{kind}", (f"{ours}.mlp.down_proj.{kind}",), is_matrix),
            ]
    return names


_ANYWHERE = {
    *PreTrainedConfig().to_dict(),
    *("_name_or_path", "auto_map", "n_ctx", "task_specific_params", "torch_dtype", "transformers.js_config"),
}
"""Settings of any class that decide nothing of a language model's logits, and old names that are not read."""

_COMMON = (
    *map(same, ("vocab_size", "tie_word_embeddings", "initializer_range", "use_cache")),
    *map(same, ("bos_token_id", "eos_token_id", "pad_token_id")),
    *(only(field, False) for field in ("scale_embeddings", "attention_output_gate")),
    *(only(field, None) for field in ("attn_logit_softcapping", "final_logit_softcapping")),
    only("norm_placement", "pre"),
    in_training_only("stochastic_depth"),
)
_ROTARY = (
    *_COMMON,
    *map(same, ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")),
    *map(same, ("max_position_embeddings", "attention_dropout")),
    only("position_embedding", "rope"),
    choice("feed_forward", "hidden_act", {"swiglu": ("silu", "swish"), "geglu": ("gelu_pytorch_tanh", "gelu_new")}),
)
_GPT2_ACTIVATIONS = {"gelu": ("gelu_new", "gelu_pytorch_tanh"), "relu": ("relu",)}
_LLAMA = (
    *_ROTARY,
    *(same("head_dim"), rope(), only("norm", "rms_norm"), same("norm_eps", "rms_norm_eps")),
    in_training_only("dropout"),
)

MAPS: tuple[StockMap, ...] = (
    StockMap(
        LlamaConfig,
        LlamaForCausalLM,
        (*_LLAMA, no_window(), only("qk_norm", False), same("attention_bias"), same("mlp_bias")),
        _same_names,
        unused=("pretraining_tp", "is_llama_config"),
    ),
    StockMap(
        MistralConfig,
        MistralForCausalLM,
        (*_LLAMA, one_window(), *(only(field, False) for field in ("qk_norm", "attention_bias", "mlp_bias"))),
        _same_names,
    ),
    StockMap(
        Qwen3Config,
        Qwen3ForCausalLM,
        (*_LLAMA, windows_by_layer(), only("qk_norm", True), same("attention_bias"), only("mlp_bias", False)),
        _same_names,
    ),
    StockMap(
        StableLmConfig,
        StableLmForCausalLM,
        (
            *(*_ROTARY, rope(may_be_partial=True), no_window(), head_dim_by_width()),
            *(
                only("norm", "layer_norm"),
                same("norm_eps", "layer_norm_eps"),
                in_training_only("dropout", "hidden_dropout"),
            ),
            *(only(field, False) for field in ("qk_norm", "attention_bias", "mlp_bias")),
            *(always(field, False) for field in ("use_qkv_bias", "qk_layernorm", "use_parallel_residual")),
        ),
        _same_names,
    ),
    StockMap(
        GPT2Config,
        GPT2LMHeadModel,
        (
            *_COMMON,
            *(
                same("hidden_size", "n_embd"),
                same("num_hidden_layers", "n_layer"),
                same("num_attention_heads", "n_head"),
            ),
            *(same("max_position_embeddings", "n_positions"), feed_forward_width("n_inner")),
            *(only("position_embedding", "learned"), head_dim_by_width(), ungrouped(), no_window()),
            *(only("norm", "layer_norm"), same("norm_eps", "layer_norm_epsilon"), only("qk_norm", False)),
            *(only("attention_bias", True), only("mlp_bias", True)),
            choice(
                "feed_forward", "activation_function", {"gelu": ("gelu_new", "gelu_pytorch_tanh"), "relu": ("relu",)}
            ),
            *(in_training_only("dropout", "resid_pdrop", "embd_pdrop"), same("attention_dropout", "attn_pdrop")),
            *(always("scale_attn_weights", True), always("scale_attn_by_inverse_layer_idx", False)),
            *(always("reorder_and_upcast_attn", False), always("add_cross_attention", False)),
            unread("rope_theta", "partial_rotary_factor"),
        ),
        _gpt2_names,
        unused=(
            *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
            "summary_first_dropout",
        ),
    ),
)
