"""The maps between our models and transformers' own: settings as parts that each translate some fields both ways, and
names of parameters."""
# mypy: no-strict-optional

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
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
    T5Config,
    T5ForConditionalGeneration,
)

from .configuration import GATED, DecoderConfig, EncoderConfig, EncoderDecoderConfig
from .decoder import DecoderForCausalLM
from .encoder import EncoderForMaskedLM
from .encoder_decoder import EncoderDecoderForConditionalGeneration
from .stock_fields import (
    NoPlace,
    Part,
    Rename,
    Values,
    always,
    choice,
    feed_forward_width,
    head_dim_by_width,
    in_training_only,
    joined,
    no_window,
    one_dropout,
    one_window,
    only,
    rope,
    same,
    scaled_head,
    special,
    start_or_padding,
    ungrouped,
    unread,
    where_said,
    windows_by_layer,
)


@dataclass(frozen=True)
class StockMap:
    """One class of transformers in our blocks."""

    our_model: type[PreTrainedModel]
    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]
    parts: tuple[Part, ...]
    names: Callable[[Any], list[Rename]]
    unused: tuple[str, ...] = ()
    """Settings of theirs that decide nothing of a language model."""
    other_heads: tuple[str, ...] = ()
    """Patterns of weights in their folders that are of other tasks, and stay behind."""

    @property
    def our_config(self) -> type[PreTrainedConfig]:
        return self.our_model.config_class

    @property
    def name(self) -> str:
        return self.model_class.__name__

    def settings(self, config: PreTrainedConfig) -> Values:
        """Their settings of our configuration; NoPlace with every field in the way."""
        return joined([part.write for part in self.parts], config)

    def read(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """Our configuration of theirs; NoPlace with every field that none of our blocks knows."""
        known = {name for part in self.parts for name in part.theirs} | _ANYWHERE | set(self.unused)
        unknown = {name: value for name, value in config.to_dict().items() if name not in known and value}
        reasons = [f"{name}: {value}" for name, value in unknown.items()]
        try:
            values = joined([part.read for part in self.parts], config)
        except NoPlace as error:
            raise NoPlace([*error.reasons, *reasons]) from None
        if reasons:
            raise NoPlace(reasons)
        return self.our_config(**values)


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


def _bert_names(config: EncoderConfig) -> list[Rename]:
    heads = {
        "cls.predictions.transform.dense": "head_transform.dense",
        "cls.predictions.transform.LayerNorm": "head_transform.norm",
        "cls.predictions.decoder": "lm_head",
    }
    return [Rename("cls.predictions.bias", ("lm_head.bias",)), *bert_names(config, heads)]


def bert_names(config: EncoderConfig, heads: Mapping[str, str]) -> list[Rename]:
    """The body of a BERT, and the modules of its `heads`, under their names there and here."""
    ours = {
        "bert.embeddings.word_embeddings": "model.embed_tokens",
        "bert.embeddings.position_embeddings": "model.embed_positions",
        "bert.embeddings.token_type_embeddings": "model.embed_segments",
        "bert.embeddings.LayerNorm": "model.embed_norm",
        **heads,
    }
    parts = {
        "attention.self.query": "self_attn.q_proj",
        "attention.self.key": "self_attn.k_proj",
        "attention.self.value": "self_attn.v_proj",
        "attention.output.dense": "self_attn.o_proj",
        "attention.output.LayerNorm": "post_attention_layernorm",
        "intermediate.dense": "mlp.up_proj",
        "output.dense": "mlp.down_proj",
        "output.LayerNorm": "post_feedforward_layernorm",
    }
    for layer in range(config.num_hidden_layers):
        ours |= {f"bert.encoder.layer.{layer}.{one}": f"model.layers.{layer}.{our}" for one, our in parts.items()}
    names = []
    for theirs, our in ours.items():
        kinds = ("weight",) if "embeddings" in theirs and "LayerNorm" not in theirs else ("weight", "bias")
        names += [Rename(f"{theirs}.{kind}", (f"{our}.{kind}",)) for kind in kinds]
    return names


def _t5_names(config: EncoderDecoderConfig) -> list[Rename]:
    tokens = ("model.encoder.embed_tokens.weight",)
    names = [Rename("shared.weight", tokens), Rename("lm_head.weight", ("lm_head.weight",))]
    attention = {f"{part}.weight": f"{part}_proj.weight" for part in "qkvo"}
    gated = config.feed_forward in GATED
    wide = {"wi_0": "gate_proj", "wi_1": "up_proj"} if gated else {"wi": "up_proj"}
    for half, layers in (("encoder", config.num_encoder_layers), ("decoder", config.num_hidden_layers)):
        ours = f"model.{half}"
        names += [
            Rename(f"{half}.embed_tokens.weight", (f"{ours}.embed_tokens.weight",)),
            Rename(f"{half}.final_layer_norm.weight", (f"{ours}.norm.weight",)),
            Rename(
                f"{half}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                (f"{ours}.position_bias.relative_attention_bias.weight",),
            ),
        ]
        norms = ["input_layernorm", "post_attention_layernorm"]
        if half == "decoder":
            norms.insert(1, "pre_cross_layernorm")
        for layer in range(layers):
            block, our = f"{half}.block.{layer}.layer", f"{ours}.layers.{layer}"
            parts = {f"{place}.layer_norm.weight": f"{norm}.weight" for place, norm in enumerate(norms)}
            parts |= {f"0.SelfAttention.{one}": f"self_attn.{two}" for one, two in attention.items()}
            if half == "decoder":
                parts |= {f"1.EncDecAttention.{one}": f"cross_attn.{two}" for one, two in attention.items()}
            names += [Rename(f"{block}.{one}", (f"{our}.{two}",)) for one, two in parts.items()]
            dense = f"{block}.{len(norms) - 1}.DenseReluDense"
            for one, two in {**wide, "wo": "down_proj"}.items():
                names.append(Rename(f"{dense}.{one}.weight", (f"{our}.mlp.{two}.weight",)))
    return names


_ANYWHERE = {
    *PreTrainedConfig().to_dict(),
    *("_name_or_path", "auto_map", "n_ctx", "task_specific_params", "torch_dtype", "transformers.js_config"),
}
"""Settings of any class that decide nothing of a language model's logits, and old names that are not read."""

_NO_ROPE = unread(
    *("rope_theta", "partial_rotary_factor", "rope_scaling_type", "rope_scaling_factor"),
    "original_max_position_embeddings",
)
_COMMON = (
    *map(same, ("vocab_size", "use_cache")),
    *map(special, ("bos_token_id", "eos_token_id", "pad_token_id")),
    *(only(field, False) for field in ("scale_embeddings", "attention_output_gate")),
    *(only(field, None) for field in ("attn_logit_softcapping", "final_logit_softcapping")),
    *(in_training_only("stochastic_depth"), unread("initializer"), only("num_experts", None)),
    unread(
        *("num_experts_per_tok", "num_shared_experts", "moe_intermediate_size", "norm_topk_prob"),
        *("router_aux_loss_coef", "router_z_loss_coef"),
    ),
)
_TIED = (same("tie_word_embeddings"), same("initializer_range"), only("attention_scaling", None))
_DECODER = (*_COMMON, *_TIED, only("norm_placement", "pre"), only("embedding_norm", False), only("type_vocab_size", 0))
_NO_BUCKETS = unread("relative_attention_num_buckets", "relative_attention_max_distance")
_ROTARY = (
    *_DECODER,
    _NO_BUCKETS,
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

BERT = (
    *(*_COMMON, *_TIED, _NO_BUCKETS, _NO_ROPE, head_dim_by_width(), ungrouped(), no_window()),
    *map(same, ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")),
    *map(same, ("max_position_embeddings", "type_vocab_size")),
    *(only("position_embedding", "learned"), only("norm", "layer_norm"), only("norm_placement", "post")),
    *(same("norm_eps", "layer_norm_eps"), choice("feed_forward", "hidden_act", {"gelu_exact": ("gelu",)})),
    *(only(field, True) for field in ("embedding_norm", "attention_bias", "mlp_bias")),
    only("qk_norm", False),
    in_training_only("dropout", "hidden_dropout_prob"),
    same("attention_dropout", "attention_probs_dropout_prob"),
    *(always("is_decoder", False), always("add_cross_attention", False)),
    where_said("position_embedding_type", "absolute"),
)
"""A BERT without its heads."""
BERT_UNUSED = (
    *("classifier_dropout", "directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"),
    *("pooler_size_per_head", "pooler_type"),
)

MAPS: tuple[StockMap, ...] = (
    StockMap(
        DecoderForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
        (*_LLAMA, no_window(), only("qk_norm", False), same("attention_bias"), same("mlp_bias")),
        _same_names,
        unused=("pretraining_tp", "is_llama_config"),
    ),
    StockMap(
        DecoderForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        (*_LLAMA, one_window(), *(only(field, False) for field in ("qk_norm", "attention_bias", "mlp_bias"))),
        _same_names,
    ),
    StockMap(
        DecoderForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
        (*_LLAMA, windows_by_layer(), only("qk_norm", True), same("attention_bias"), only("mlp_bias", False)),
        _same_names,
    ),
    StockMap(
        DecoderForCausalLM,
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
        DecoderForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        (
            *(*_DECODER, _NO_BUCKETS),
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
            _NO_ROPE,
        ),
        _gpt2_names,
        unused=(
            *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
            "summary_first_dropout",
        ),
    ),
    StockMap(
        EncoderForMaskedLM,
        BertConfig,
        BertForMaskedLM,
        (
            *BERT,
            *(only(field, True) for field in ("head_transform", "head_bias")),
            unread("pooler", "classifier_pooling"),
        ),
        _bert_names,
        unused=BERT_UNUSED,
        other_heads=(r"^bert\.pooler\.", r"^cls\.seq_relationship\."),
    ),
    StockMap(
        EncoderDecoderForConditionalGeneration,
        T5Config,
        T5ForConditionalGeneration,
        (
            *(*_COMMON, _NO_ROPE, ungrouped(), no_window(), unread("max_position_embeddings", "initializer_range")),
            *(same("hidden_size", "d_model"), same("head_dim", "d_kv"), same("intermediate_size", "d_ff")),
            *(same("num_encoder_layers", "num_layers"), same("num_hidden_layers", "num_decoder_layers")),
            *(same("num_attention_heads", "num_heads"), same("norm_eps", "layer_norm_epsilon")),
            *map(same, ("relative_attention_num_buckets", "relative_attention_max_distance")),
            start_or_padding(),
            *(only("position_embedding", "relative_bias"), only("norm", "rms_norm"), only("norm_placement", "pre")),
            choice("feed_forward", "feed_forward_proj", {"relu": ("relu",), "geglu": ("gated-gelu",)}),
            *(only("attention_scaling", 1.0), only("type_vocab_size", 0), scaled_head()),
            *(only(field, True) for field in ("share_embeddings", "tie_word_embeddings")),
            *(only(field, False) for field in ("embedding_norm", "attention_bias", "mlp_bias", "qk_norm")),
            one_dropout("dropout_rate"),
            always("is_decoder", False),
        ),
        _t5_names,
        unused=(
            *("initializer_factor", "classifier_dropout", "dense_act_fn", "is_gated_act", "tie_word_embeddings"),
            *("n_positions", "output_past"),
        ),
    ),
)
