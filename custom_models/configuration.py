"""What a model is made of: one flat section of named settings, checked once, saved beside the weights with the code."""
# mypy: no-strict-optional

import os
import shutil
import sys
from pathlib import Path
from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files

CHOICES = {
    "position_embedding": ("rope", "learned", "sinusoidal", "alibi", "relative_bias", "none"),
    "norm": ("rms_norm", "layer_norm"),
    "norm_placement": ("pre", "post", "sandwich"),
    "feed_forward": ("swiglu", "geglu", "gelu", "gelu_exact", "relu", "relu2"),
    "initializer": ("normal", "gpt2", "small_init", "xavier_uniform", "t5"),
}
GATED = ("swiglu", "geglu")
LAYER_TYPES = ("full_attention", "sliding_attention")


@strict
class TransformerConfig(PreTrainedConfig):
    """The settings that every stack of blocks shares; a family adds `model_type`, `auto_classes` and its own fields.

    `save_pretrained`, which a model's own `save_pretrained` calls, also copies the modules that the folder needs and
    writes the whole `auto_map`: the folder then loads with `trust_remote_code=True` in a process without this package.
    """

    auto_classes: ClassVar[dict[str, str]] = {}
    """Auto class -> "module.Class" in this folder."""

    vocab_size: int = 32_000
    hidden_size: int = 256
    intermediate_size: int | None = None
    """None: 8/3 of hidden_size rounded up to a multiple of 8 where gated, else four times hidden_size."""
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    """None: as many as num_attention_heads; fewer is grouped-query attention."""
    head_dim: int | None = None
    """None: hidden_size / num_attention_heads."""
    layer_types: list[str] | tuple[str, ...] | None = None
    """One period of "full_attention" and "sliding_attention", repeated over the layers; None: all full."""
    sliding_window: int | None = None
    """How many tokens a sliding layer sees, the token itself among them."""
    max_position_embeddings: int = 2048
    position_embedding: str = "rope"
    rope_theta: float | int = 10_000.0
    partial_rotary_factor: float | int = 1.0
    """Share of each head, its first dimensions, that rope turns."""
    rope_scaling_type: str | None = None
    """linear or yarn, for rows longer than `original_max_position_embeddings`; None: as trained."""
    rope_scaling_factor: float | int = 1.0
    original_max_position_embeddings: int | None = None
    """The longest row before yarn; for yarn alone."""
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    """Of relative_bias: how many distances it tells apart, and from where on all are one."""
    type_vocab_size: int = 0
    """Kinds of segments (`token_type_ids`) with an embedding each, as BERT has two; 0: none."""
    embedding_norm: bool = False
    """Normalise what enters the first block, as BERT and BLOOM do."""
    scale_embeddings: bool = False
    """Multiply token embeddings by the square root of hidden_size."""
    norm: str = "rms_norm"
    norm_eps: float = 1e-5
    norm_placement: str = "pre"
    """pre: before each half of a block, and at the end; post: after each sum; sandwich: before and after each half."""
    feed_forward: str = "swiglu"
    """In "gelu" and "geglu" the activation is GPT-2's, the tanh approximation; "gelu_exact" is BERT's."""
    num_experts: int | None = None
    """Feed-forwards of a layer between which its router chooses; None: one, and no router."""
    num_experts_per_tok: int = 2
    num_shared_experts: int = 0
    """Experts of the same width that every token goes through as well."""
    moe_intermediate_size: int | None = None
    """None, with experts: intermediate_size."""
    norm_topk_prob: bool = True
    """Whether the weights of a token's experts sum to one."""
    router_aux_loss_coef: float | int = 0.01
    router_z_loss_coef: float | int = 0.0
    qk_norm: bool = False
    attention_output_gate: bool = False
    """Multiply what each head reads by a sigmoid of the layer's input."""
    attention_scaling: float | int | None = None
    """Factor of the attention logits; None: 1 / sqrt(head_dim). T5 has 1."""
    attn_logit_softcapping: float | int | None = None
    final_logit_softcapping: float | int | None = None
    """Logits x become cap * tanh(x / cap)."""
    attention_bias: bool = False
    mlp_bias: bool = False
    dropout: float | int = 0.0
    """Of the embeddings and of what each half of a block adds to the residual stream."""
    attention_dropout: float | int = 0.0
    stochastic_depth: float | int = 0.0
    """How often a row skips half a block in training."""
    tie_word_embeddings: bool = True
    initializer: str = "normal"
    """The rule that weights start by; initializers.py has them."""
    initializer_range: float = 0.02
    """Standard deviation, of "normal" and "gpt2"."""
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs):
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(f"{field} is {getattr(self, field)!r}; it must be one of {', '.join(choices)}")
        _check_sizes(self)
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.intermediate_size is None:
            self.intermediate_size = _intermediate_size(self.hidden_size, self.feed_forward)
        if self.num_experts is not None and self.moe_intermediate_size is None:
            self.moe_intermediate_size = self.intermediate_size
        _check_experts(self)
        self.layer_types = _repeat(self.layer_types, self.num_hidden_layers)
        _check_attention(self)
        kwargs.setdefault("auto_map", dict(self.auto_classes))
        super().__post_init__(**kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Write config.json and the code it refers to; `use_cache`, which trainers switch off, is saved as true."""
        sources = {name: _source_file(self, name) for name in self.auto_classes.values()}
        self.auto_map = {auto: name for auto, name in self.auto_classes.items() if sources[name].exists()}
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        for file in _with_imports({sources[name] for name in self.auto_map.values()}):
            if file.parent.resolve() != folder.resolve():
                shutil.copyfile(file, folder / file.name)
        use_cache, self.use_cache = self.use_cache, True
        try:
            super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        finally:
            self.use_cache = use_cache


@strict
class EncoderConfig(TransformerConfig):
    """An encoder, whose tokens see each other in both directions, from BERT's parts to Llama's."""

    model_type = "sourdough_encoder"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration.EncoderConfig",
        "AutoModel": "encoder.EncoderModel",
        "AutoModelForMaskedLM": "encoder.EncoderForMaskedLM",
        "AutoModelForSequenceClassification": "encoder.EncoderForSequenceClassification",
    }

    head_transform: bool = False
    """A dense layer, exact gelu and a norm before the head over the vocabulary, as BERT has."""
    head_bias: bool = False
    """A bias for each word of the vocabulary."""
    pooler: bool = False
    """A dense layer and tanh before a classifier, as BERT has."""
    classifier_pooling: Literal["cls", "mean"] = "cls"
    """What a classifier reads: the state of the first token, or the mean of all (ModernBERT, arXiv 2412.13663)."""
    use_cache: bool = False


@strict
class EncoderDecoderConfig(TransformerConfig):
    """An encoder, and a decoder that reads it: from the 2017 Transformer's parts to T5's."""

    model_type = "sourdough_encoder_decoder"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration.EncoderDecoderConfig",
        "AutoModel": "encoder_decoder.EncoderDecoderModel",
        "AutoModelForSeq2SeqLM": "encoder_decoder.EncoderDecoderForConditionalGeneration",
    }

    num_encoder_layers: int | None = None
    """None: as many as the decoder's, num_hidden_layers."""
    share_embeddings: bool = True
    """One embedding matrix for encoder and decoder; tie_word_embeddings says whether it is the head as well."""
    scale_head: bool = False
    """Divide the head's input by the square root of hidden_size, as T5 does where the embeddings are the head."""
    decoder_start_token_id: int | None = None
    """The decoder's first input; None: bos_token_id."""
    is_encoder_decoder: bool = True

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.num_encoder_layers is None:
            self.num_encoder_layers = self.num_hidden_layers
        if self.num_encoder_layers < 1:
            raise ValueError(f"num_encoder_layers is {self.num_encoder_layers}; it must be at least 1")
        if len(set(self.layer_types)) > 1 and self.num_encoder_layers != self.num_hidden_layers:
            raise ValueError("with layers of several types, num_encoder_layers must equal num_hidden_layers")
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.bos_token_id


@strict
class DecoderConfig(TransformerConfig):
    """A decoder-only language model, from GPT-2's parts to Llama's."""

    model_type = "sourdough_decoder"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration.DecoderConfig",
        "AutoModel": "decoder.DecoderModel",
        "AutoModelForCausalLM": "decoder.DecoderForCausalLM",
        "AutoModelForSequenceClassification": "heads.DecoderForSequenceClassification",
    }


def _check_sizes(config: TransformerConfig) -> None:
    for field in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"):
        if getattr(config, field) < 1:
            raise ValueError(f"{field} is {getattr(config, field)}; it must be at least 1")
    for field in ("dropout", "attention_dropout", "stochastic_depth"):
        if not 0 <= getattr(config, field) < 1:
            raise ValueError(f"{field} is {getattr(config, field)}; it must be at least 0 and below 1")
    for field in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, field) is not None and not getattr(config, field) > 0:
            raise ValueError(f"{field} is {getattr(config, field)}; it must be above 0")
    if config.head_dim is None and config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"hidden_size {config.hidden_size} is not a multiple of num_attention_heads {config.num_attention_heads}; "
            "change one of them or set head_dim"
        )


def _check_experts(config: TransformerConfig) -> None:
    count, chosen = config.num_experts, config.num_experts_per_tok
    if config.initializer not in ("normal", "gpt2") and config.initializer_range != 0.02:
        raise ValueError(f"initializer_range belongs to normal and gpt2, and initializer is {config.initializer}")
    if count is None:
        if config.num_shared_experts or config.moe_intermediate_size is not None:
            raise ValueError("num_shared_experts and moe_intermediate_size need num_experts")
        return
    if not 1 <= chosen <= count or count < 2:
        raise ValueError(f"num_experts_per_tok is {chosen} of num_experts {count}; it must choose from two or more")
    if chosen == 1 and config.norm_topk_prob:
        raise ValueError("num_experts_per_tok is 1, and norm_topk_prob makes its weight 1: no router learns from that")
    if config.mlp_bias:
        raise ValueError("mlp_bias: experts have no biases")
    for field, least in (("num_shared_experts", 0), ("moe_intermediate_size", 1)):
        if getattr(config, field) < least:
            raise ValueError(f"{field} is {getattr(config, field)}; it must be at least {least}")
    for field in ("router_aux_loss_coef", "router_z_loss_coef"):
        if getattr(config, field) < 0:
            raise ValueError(f"{field} is {getattr(config, field)}; it must not be below 0")


def _intermediate_size(hidden_size: int, feed_forward: str) -> int:
    if feed_forward not in GATED:
        return 4 * hidden_size
    return -(-8 * hidden_size // (3 * 8)) * 8


def _repeat(period: list[str] | tuple[str, ...] | None, num_layers: int) -> list[str]:
    period = list(period) if period is not None else ["full_attention"]
    if not period or not set(period) <= set(LAYER_TYPES):
        raise ValueError(f"layer_types is {period}; it takes one or more of {', '.join(LAYER_TYPES)}")
    if len(period) > num_layers:
        raise ValueError(f"layer_types has {len(period)} entries, more than num_hidden_layers {num_layers}")
    return [period[layer % len(period)] for layer in range(num_layers)]


def _check_attention(config: TransformerConfig) -> None:
    heads, key_value_heads = config.num_attention_heads, config.num_key_value_heads
    if key_value_heads < 1 or heads % key_value_heads:
        raise ValueError(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {key_value_heads}")
    _check_positions(config)
    if ("sliding_attention" in config.layer_types) != (config.sliding_window is not None):
        raise ValueError(
            f"layer_types {sorted(set(config.layer_types))} with sliding_window {config.sliding_window}: "
            "sliding layers need a window, and a window needs sliding layers"
        )
    if config.sliding_window is not None and config.sliding_window < 1:
        raise ValueError(f"sliding_window is {config.sliding_window}; it must be at least 1")


def _check_positions(config: TransformerConfig) -> None:
    is_rope, share = config.position_embedding == "rope", config.partial_rotary_factor
    if not 0 < share <= 1 or (share < 1 and not is_rope):
        raise ValueError(f"partial_rotary_factor is {share}; it belongs to rope, above 0 and at most 1")
    if is_rope and round(share * config.head_dim, 6) % 2:
        raise ValueError(
            f"head_dim is {config.head_dim}; rope turns pairs of dimensions, so "
            + ("it must be even" if share == 1 else f"partial_rotary_factor {share} of it must be an even number")
        )
    _check_rope_scaling(config)
    buckets, distance = config.relative_attention_num_buckets, config.relative_attention_max_distance
    if buckets < 4 or buckets % 2 or distance <= buckets // 2:
        raise ValueError(
            f"relative_attention_num_buckets is {buckets} and relative_attention_max_distance {distance}; they must be "
            "an even number of at least 4, and more than half of that"
        )
    if config.position_embedding == "sinusoidal" and config.hidden_size % 2:
        raise ValueError(f"hidden_size is {config.hidden_size}; sinusoidal positions come in pairs, so it must be even")


def _check_rope_scaling(config: TransformerConfig) -> None:
    kind, original = config.rope_scaling_type, config.original_max_position_embeddings
    if kind is None:
        if config.rope_scaling_factor != 1 or original is not None:
            raise ValueError("rope_scaling_factor and original_max_position_embeddings need a rope_scaling_type")
        return
    if kind not in ("linear", "yarn") or config.position_embedding != "rope":
        raise ValueError(f"rope_scaling_type is {kind!r}; it must be linear or yarn, and belongs to rope")
    if not config.rope_scaling_factor > 1:
        raise ValueError(f"rope_scaling_factor is {config.rope_scaling_factor}; it must be above 1")
    if (kind == "yarn") != (original is not None) or (original is not None and original < 1):
        raise ValueError(
            f"original_max_position_embeddings is {original} with rope_scaling_type {kind}: yarn needs the longest row "
            "before scaling, and linear does not know it"
        )
    if kind == "yarn" and not config.rope_theta > 1:
        raise ValueError(f"rope_theta is {config.rope_theta}; for yarn it must be above 1")


def _source_file(config: TransformerConfig, name: str) -> Path:
    """Beside this module; where this module itself is remote code, alone in a cache, in the folder it came from."""
    file = f"{name.split('.')[0]}.py"
    beside = Path(sys.modules[type(config).__module__].__file__).parent / file
    return beside if beside.exists() else Path(config.name_or_path) / file


def _with_imports(files: set[Path]) -> list[Path]:
    return sorted(files.union(Path(needed) for file in files for needed in get_relative_import_files(file)))
