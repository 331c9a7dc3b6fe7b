"""Chapter `model`: a transformer described by its building blocks."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipelines.recipe.base import Section

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
PADDED_TO = 8
"""Rows are as long as a multiple of this; `pipelines.data.collate` has the same number, and a test compares them."""
GATED = ("swiglu", "geglu")
"""Feed-forwards of three projections."""
OF_POSITIONS = {
    "rope": (
        "rope_theta",
        "partial_rotary_factor",
        "rope_scaling_type",
        "rope_scaling_factor",
        "original_max_position_embeddings",
    ),
    "relative_bias": ("relative_attention_num_buckets", "relative_attention_max_distance"),
}
"""Fields that only one position_embedding reads."""
OF_EXPERTS = (
    "num_experts_per_tok",
    "num_shared_experts",
    "moe_intermediate_size",
    "norm_topk_prob",
    "router_aux_loss_coef",
    "router_z_loss_coef",
)
"""Fields that only a mixture of experts reads."""
LayerType = Literal["full_attention", "sliding_attention"]

OF_ARCHITECTURE = {
    "encoder": ("type_vocab_size", "head_transform", "head_bias", "pooler", "classifier_pooling"),
    "encoder_decoder": ("num_encoder_layers", "share_embeddings", "scale_head"),
    "decoder": ("num_experts",),
}
"""Fields that only one architecture has."""

STYLES: dict[str, dict[str, Any]] = {
    "llama": {},  # the defaults of the fields below
    "gpt2": {
        "position_embedding": "learned",
        "norm": "layer_norm",
        "feed_forward": "gelu",
        "attention_bias": True,
        "mlp_bias": True,
    },
    "modern": {"qk_norm": True, "attention_output_gate": True},
    "bert": {
        "position_embedding": "learned",
        "type_vocab_size": 2,
        "embedding_norm": True,
        "norm": "layer_norm",
        "norm_eps": 1e-12,
        "norm_placement": "post",
        "feed_forward": "gelu_exact",
        "attention_bias": True,
        "mlp_bias": True,
        "head_transform": True,
        "head_bias": True,
        "pooler": True,
    },
    "transformer_2017": {
        "position_embedding": "sinusoidal",
        "scale_embeddings": True,
        "initializer": "xavier_uniform",
        "norm": "layer_norm",
        "norm_placement": "post",
        "feed_forward": "relu",
        "attention_bias": True,
        "mlp_bias": True,
    },
    "t5": {
        "position_embedding": "relative_bias",
        "norm_eps": 1e-6,
        "feed_forward": "relu",
        "attention_scaling": 1.0,
        "scale_head": True,
        "initializer": "t5",
    },
}
"""A style is a named set of values; any field written in the recipe overrides it."""
STYLE_ARCHITECTURES = {"bert": "encoder", "transformer_2017": "encoder_decoder", "t5": "encoder_decoder"}
"""Styles of one architecture; the others fit all."""


class ModelConfig(Section):
    """The transformer that `pretrain` starts from random weights."""

    architecture: Literal["decoder", "encoder", "encoder_decoder"] = "decoder"
    """The family: decoder (predicts the next token, like GPT), encoder (sees both sides, like BERT), encoder_decoder
    (reads a source and writes a target, like the 2017 Transformer)."""
    style: Literal["llama", "gpt2", "modern", "bert", "transformer_2017", "t5"] = "llama"
    """A named set of blocks that any field below overrides; llama: rms_norm, rope, swiglu, no biases."""
    hidden_size: PositiveInt
    """Width of the residual stream."""
    num_hidden_layers: PositiveInt
    """Number of blocks, one attention and one feed-forward each; in an encoder_decoder the decoder's."""
    num_encoder_layers: PositiveInt | None = None
    """Blocks of an encoder_decoder's encoder. Default: num_hidden_layers."""
    num_attention_heads: PositiveInt
    """Query heads; must divide hidden_size unless head_dim is given."""
    num_key_value_heads: PositiveInt | None = None
    """Key and value heads shared by groups of query heads (GQA, arXiv 2305.13245). Default: one per query head."""
    head_dim: PositiveInt | None = None
    """Width of one head. Default: hidden_size / num_attention_heads."""
    intermediate_size: PositiveInt | None = None
    """Width of the feed-forward. Default: 8/3 of hidden_size rounded up to 8 for swiglu, 4 times for gelu."""
    max_position_embeddings: PositiveInt = 1024
    """Longest sequence in tokens."""
    position_embedding: Literal["rope", "learned", "sinusoidal", "alibi", "relative_bias", "none"] = "rope"
    """Rotary (arXiv 2104.09864), learned absolute, sinusoidal (arXiv 1706.03762), a fixed bias of attention logits by
    distance (alibi: arXiv 2108.12409), a learned one (relative_bias: T5's, arXiv 1910.10683, 2.1), or none."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary frequencies."""
    partial_rotary_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of each head that rope turns, its first dimensions."""
    rope_scaling_type: Literal["linear", "yarn"] | None = None
    """Slow rope down for longer rows: all frequencies (linear, arXiv 2306.15595), or the low ones (yarn, arXiv
    2309.00071)."""
    rope_scaling_factor: PositiveFloat = 1.0
    """How many times longer rows get by rope_scaling_type."""
    original_max_position_embeddings: PositiveInt | None = None
    """Longest sequence in tokens before yarn."""
    relative_attention_num_buckets: PositiveInt = 32
    """Distances that relative_bias tells apart."""
    relative_attention_max_distance: PositiveInt = 128
    """Distance in tokens from which on relative_bias is the same."""
    type_vocab_size: NonNegativeInt = 0
    """Encoder: segments with an embedding each, so that the first and the second of two texts differ (BERT: 2)."""
    embedding_norm: bool = False
    """Normalise what enters the first block."""
    scale_embeddings: bool = False
    """Multiply token embeddings by the square root of hidden_size (arXiv 1706.03762, 3.4)."""
    norm: Literal["rms_norm", "layer_norm"] = "rms_norm"
    """Kind of normalisation."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the variance inside the norm."""
    norm_placement: Literal["pre", "post", "sandwich"] = "pre"
    """pre: before each sublayer and at the end; post: after each sum (arXiv 1706.03762); sandwich: on both sides."""
    feed_forward: Literal["swiglu", "geglu", "gelu", "gelu_exact", "relu", "relu2"] = "swiglu"
    """Gated (swiglu, geglu: arXiv 2002.05202) or plain; gelu is GPT-2's approximation, gelu_exact BERT's; relu2 is the
    square of relu (arXiv 2109.08668)."""
    num_experts: Annotated[int, Field(ge=2)] | None = None
    """Feed-forwards of each layer, of which a router chooses some for each token (arXiv 2401.04088). Default: one, and
    no router."""
    num_experts_per_tok: PositiveInt = 2
    """Experts that a token goes through."""
    num_shared_experts: NonNegativeInt = 0
    """Experts that every token goes through as well (arXiv 2401.06066)."""
    moe_intermediate_size: PositiveInt | None = None
    """Width of an expert. Default: intermediate_size."""
    norm_topk_prob: bool = True
    """Let the weights of a token's experts sum to one."""
    router_aux_loss_coef: NonNegativeFloat = 0.01
    """Weight of the load balancing loss of each row in pretraining (arXiv 2101.03961, eq. 4; 2412.19437, eq. 17). Other
    stages train the router by their own loss alone."""
    router_z_loss_coef: NonNegativeFloat = 0.0
    """Weight of the router's z-loss in pretraining alone (arXiv 2202.08906, eq. 5)."""
    qk_norm: bool = False
    """Normalise queries and keys per head before attention."""
    attention_output_gate: bool = False
    """Multiply what each head reads by a sigmoid of the layer's input (arXiv 2505.06708)."""
    attention_scaling: PositiveFloat | None = None
    """Factor of the attention logits. Default: 1 / sqrt(head_dim); T5 has 1."""
    attn_logit_softcapping: PositiveFloat | None = None
    """Attention logits x become cap * tanh(x / cap) (arXiv 2408.00118). Slower: no fused kernel has it."""
    final_logit_softcapping: PositiveFloat | None = None
    """The same for the logits over the vocabulary."""
    layer_types: tuple[LayerType, ...] | None = None
    """One period of layers, repeated to num_hidden_layers. Default: full attention everywhere."""
    sliding_window: PositiveInt | None = None
    """Tokens that a sliding_attention layer sees, itself included; in an encoder, how many on each side."""
    attention_bias: bool = False
    """Biases in the attention projections."""
    mlp_bias: bool = False
    """Biases in the feed-forward projections."""
    dropout: Share = 0.0
    """Dropout on embeddings and on what each sublayer adds."""
    attention_dropout: Share = 0.0
    """Dropout on attention weights."""
    stochastic_depth: Share = 0.0
    """How often a row skips a sublayer in training (arXiv 1603.09382)."""
    tie_word_embeddings: bool = True
    """Use the embedding matrix as the output head."""
    share_embeddings: bool = True
    """Encoder_decoder: one embedding matrix for both halves."""
    scale_head: bool = False
    """Encoder_decoder: divide the head's input by the square root of hidden_size, as T5 does."""
    head_transform: bool = False
    """Encoder: a dense layer, gelu and a norm before the head (BERT)."""
    head_bias: bool = False
    """Encoder: a bias for each entry of the vocabulary (BERT)."""
    pooler: bool = False
    """Encoder: a dense layer and tanh before a classifier (BERT)."""
    classifier_pooling: Literal["cls", "mean"] = "cls"
    """Encoder: what a classifier reads, the first token's state or the mean of all (ModernBERT, arXiv 2412.13663)."""
    initializer: Literal["normal", "gpt2", "small_init", "xavier_uniform", "t5"] = "normal"
    """How weights start. normal: all with initializer_range; gpt2: the ends of sublayers smaller by the root of their
    number (Radford 2019, 2.3); small_init: sqrt(2 / (5 hidden_size)) (arXiv 1910.05895), ends of sublayers as in
    GPT-NeoX (arXiv 2204.06745); xavier_uniform: Glorot and Bengio 2010, as in arXiv 1706.03762; t5: 1 / sqrt(inputs),
    Mesh TensorFlow's (arXiv 1910.10683)."""
    initializer_range: PositiveFloat = 0.02
    """Standard deviation of the initial weights, where the initializer is normal or gpt2."""

    @model_validator(mode="before")
    @classmethod
    def _fill_style(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("style"), str):
            value = STYLES.get(value["style"], {}) | value
        if isinstance(value, dict) and isinstance(value.get("layer_types"), list):
            value = value | {"layer_types": tuple(value["layer_types"])}
        return value

    def faults(self) -> Iterator[str]:
        kv_heads = self.num_key_value_heads or self.num_attention_heads
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            yield (
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads}), or give head_dim"
            )
        if self.num_attention_heads % kv_heads:
            yield (
                f"num_key_value_heads ({kv_heads}) must divide num_attention_heads ({self.num_attention_heads}) "
                "without a rest"
            )
        width = self.head_dim or self.hidden_size // self.num_attention_heads
        yield from self._architecture_faults()
        yield from self._position_faults(width)
        yield from self._expert_faults()
        if self.initializer not in ("normal", "gpt2") and self.initializer_range != 0.02:
            yield f"initializer_range belongs to normal and gpt2, and initializer is {self.initializer}"
        slides = "sliding_attention" in (self.layer_types or ())
        if slides and self.sliding_window is None:
            yield "layer_types has sliding_attention, so sliding_window is needed"
        if self.sliding_window is not None and not slides:
            yield "sliding_window is set, but layer_types has no sliding_attention"
        if self.layer_types is not None and not self.layer_types:
            yield "layer_types: needs at least one layer"
        elif self.layer_types is not None and self.num_hidden_layers % len(self.layer_types):
            yield (
                f"num_hidden_layers ({self.num_hidden_layers}) must be a multiple of the period of layer_types "
                f"({len(self.layer_types)})"
            )

    def _architecture_faults(self) -> Iterator[str]:
        needed = STYLE_ARCHITECTURES.get(self.style, self.architecture)
        if needed != self.architecture:
            yield f"style {self.style} is of architecture {needed}, not {self.architecture}"
            return
        for owner, fields in OF_ARCHITECTURE.items():
            for field in fields if self.architecture != owner else ():
                if getattr(self, field) != type(self).model_fields[field].default:
                    yield f"{field} belongs to architecture {owner}, and this is {self.architecture}"
        if self.num_encoder_layers not in (None, self.num_hidden_layers) and len(set(self.layer_types or ())) > 1:
            yield "num_encoder_layers must equal num_hidden_layers where layer_types differ"

    def _position_faults(self, width: int) -> Iterator[str]:
        is_rope, share = self.position_embedding == "rope", self.partial_rotary_factor
        if is_rope and share == 1 and width % 2:
            yield f"head_dim, or hidden_size / num_attention_heads, must be even for rope, not {width}"
        elif is_rope and round(share * width, 6) % 2:
            yield f"partial_rotary_factor ({share}) of {width} dimensions must be an even number of them"
        for owner, fields in OF_POSITIONS.items():
            for field in self._changed(fields) if self.position_embedding != owner else ():
                yield f"{field} belongs to {owner}, and position_embedding is {self.position_embedding}"
        yield from self._rope_scaling_faults() if is_rope else ()
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4 or buckets % 2:
            yield f"relative_attention_num_buckets ({buckets}) must be an even number of at least 4"
        elif distance <= buckets // 2:
            yield (
                f"relative_attention_max_distance ({distance}) must be more than half of "
                f"relative_attention_num_buckets ({buckets})"
            )
        if self.position_embedding == "learned" and self.max_position_embeddings % PADDED_TO:
            yield (
                f"max_position_embeddings ({self.max_position_embeddings}) must be a multiple of {PADDED_TO} where "
                "positions are learned: rows are padded to one, and the table has no place beyond its end"
            )
        if self.position_embedding == "sinusoidal" and self.hidden_size % 2:
            yield f"hidden_size ({self.hidden_size}) must be even for sinusoidal positions"

    def _expert_faults(self) -> Iterator[str]:
        if self.num_experts is None:
            for field in self._changed(OF_EXPERTS):
                yield f"{field} is set, so num_experts is needed"
            return
        if self.num_experts_per_tok > self.num_experts:
            yield f"num_experts_per_tok ({self.num_experts_per_tok}) must be at most num_experts ({self.num_experts})"
        if self.num_experts_per_tok == 1 and self.norm_topk_prob:
            yield (
                "num_experts_per_tok is 1, and a weight that sums to one alone teaches the router nothing; set "
                "norm_topk_prob: false"
            )
        if self.mlp_bias:
            yield "mlp_bias: experts have no biases; set mlp_bias: false"
        if self.intermediate_size is not None and self.moe_intermediate_size is not None:
            yield "intermediate_size and moe_intermediate_size are both the width of an expert; keep one"

    def _changed(self, fields: Iterable[str]) -> list[str]:
        return [field for field in fields if getattr(self, field) != type(self).model_fields[field].default]

    def _rope_scaling_faults(self) -> Iterator[str]:
        kind, original = self.rope_scaling_type, self.original_max_position_embeddings
        if kind is None and self.rope_scaling_factor != 1:
            yield "rope_scaling_factor is set, so rope_scaling_type is needed: linear or yarn"
        if kind is not None and self.rope_scaling_factor <= 1:
            yield f"rope_scaling_type is {kind}, so rope_scaling_factor must be above 1"
        if kind == "yarn" and original is None:
            yield "rope_scaling_type is yarn, so original_max_position_embeddings is needed"
        if kind == "yarn" and self.rope_theta <= 1:
            yield f"rope_theta ({self.rope_theta}) must be above 1 for yarn"
        if kind != "yarn" and original is not None:
            yield "original_max_position_embeddings belongs to yarn, so rope_scaling_type: yarn is needed"

    @property
    def default_intermediate_size(self) -> int:
        """Width of the feed-forward where none is given; custom_models has the same rule, and a test compares them."""
        if self.feed_forward not in GATED:
            return 4 * self.hidden_size
        return -(-self.hidden_size * 8 // 3 // 8) * 8

    def meaning(self) -> dict[str, Any]:
        """The values that decide. A style is only a way to write them; a default that follows from others is none."""
        implied = {
            "style": self.style,
            "num_encoder_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_attention_heads,
            "head_dim": self.hidden_size // self.num_attention_heads,
            "intermediate_size": self.default_intermediate_size,
            "moe_intermediate_size": self.default_intermediate_size,
        }
        values = {key: value for key, value in super().meaning().items() if implied.get(key) != value}
        if set(self.layer_types or ()) == {"full_attention"}:
            del values["layer_types"]
        return values
