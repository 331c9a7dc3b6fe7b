"""The decoder: embeddings, a stack of causal blocks, a head over the vocabulary; packed rows never see each other."""
# mypy: no-strict-optional, disable-error-code="misc"

from typing import ClassVar, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils import can_return_tuple
from transformers.utils.import_utils import is_tracing
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention import Attention
from .configuration import DecoderConfig
from .initializers import initialise
from .layers import Block, Head, build_norm
from .moe import Router, SparseCausalLMOutput, router_outputs
from .positions import build_position_bias, rope_angles, sinusoids

MASKS = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}
PADDING = -2  # a position no token has, and that no position follows: each padded place is a document of its own


class DecoderPreTrainedModel(PreTrainedModel):
    """What transformers must know of the family; there are no buffers to restore."""

    config: DecoderConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["Block"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs: ClassVar[dict[str, type | OutputRecorder]] = {
        "hidden_states": Block,
        "attentions": Attention,
        "router_logits": OutputRecorder(Router, index=0),
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        initialise(module, self.config)


class DecoderModel(DecoderPreTrainedModel):
    """From token ids to the last hidden states.

    Rows whose `position_ids` restart are packed: each run of consecutive positions is a document that sees only
    itself, whatever `use_cache` says and whether or not an `attention_mask` marks padding.
    """

    def __init__(self, config: DecoderConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = None
        if config.position_embedding == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.position_bias = build_position_bias(config, is_causal=True)
        self.layers = nn.ModuleList(
            Block(config, Attention(config, layer_idx, is_causal=True)) for layer_idx in range(config.num_hidden_layers)
        )
        # Where norms come after each sum, the last block ends with one.
        self.norm = nn.Identity() if config.norm_placement == "post" else build_norm(config, config.hidden_size)
        self.gradient_checkpointing = False
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Without `use_cache`, a cache is made outside training only."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        is_packed = _is_packed(position_ids, attention_mask, past_key_values)
        if is_packed and len(inputs_embeds) > 1 and "flash" in self.config._attn_implementation:
            raise ValueError("flash attention keeps packed documents apart in one flattened row only; use sdpa")
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None and not is_packed:
            past_key_values = DynamicCache(config=self.config)

        positions = self._positions(inputs_embeds, attention_mask, position_ids, past_key_values)
        documents = _documents(position_ids, attention_mask) if is_packed else None
        masks = self._masks(inputs_embeds, attention_mask, documents, past_key_values)
        hidden_states, angles = self._embed(inputs_embeds, positions)
        for layer, layer_type in zip(self.layers, self.config.layer_types, strict=True):
            hidden_states = layer(
                hidden_states,
                attention_mask=masks[layer_type],
                position_embeddings=angles,
                past_key_values=past_key_values,
                position_ids=documents if is_packed else positions,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)

    def _positions(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | dict | None,
        position_ids: Tensor | None,
        past_key_values: Cache | None,
    ) -> Tensor:
        """(rows or 1, tokens). Rope sees distances only; absolute positions start at the first token after padding."""
        if position_ids is not None:
            return position_ids
        num_tokens = inputs_embeds.shape[1]
        num_past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if self.embed_positions is not None and num_past + num_tokens > self.embed_positions.num_embeddings:
            limit = self.embed_positions.num_embeddings
            raise ValueError(f"{num_past + num_tokens} tokens, but max_position_embeddings is {limit}")
        if self.config.position_embedding in ("learned", "sinusoidal") and _is_padding_mask(attention_mask):
            return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -num_tokens:]
        return (torch.arange(num_tokens, device=inputs_embeds.device) + num_past)[None]

    def _embed(self, inputs_embeds: Tensor, positions: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        config, angles = self.config, None
        dtype = inputs_embeds.dtype
        if config.scale_embeddings:
            inputs_embeds = inputs_embeds * torch.tensor(config.hidden_size**0.5, dtype=dtype)
        if self.embed_positions is not None:
            inputs_embeds = inputs_embeds + self.embed_positions(positions)
        elif config.position_embedding == "sinusoidal":
            inputs_embeds = inputs_embeds + sinusoids(positions, size=config.hidden_size, dtype=dtype)
        elif config.position_embedding == "rope":
            angles = rope_angles(positions, config, dtype=dtype)
        if config.dropout and self.training:
            inputs_embeds = F.dropout(inputs_embeds, config.dropout)
        return inputs_embeds, angles

    def _masks(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | dict | None,
        documents: Tensor | None,
        past_key_values: Cache | None,
    ) -> dict[str, Tensor | None]:
        """One mask for each type of layer, biases of distance included; None where the kernel's own causal flag says it
        all."""
        if documents is not None and _is_padding_mask(attention_mask):
            attention_mask = None  # already in the documents
        if isinstance(attention_mask, dict):  # generate() with a static cache makes them itself
            masks = attention_mask
        else:
            masks = {
                layer_type: MASKS[layer_type](
                    config=self.config,
                    inputs_embeds=inputs_embeds,
                    attention_mask=attention_mask,
                    past_key_values=past_key_values,
                    position_ids=documents,
                )
                for layer_type in set(self.config.layer_types)
            }
        if self.position_bias is None:
            return masks
        return {
            layer_type: self.position_bias(
                mask, inputs_embeds, past_key_values, layer_idx=self.config.layer_types.index(layer_type)
            )
            for layer_type, mask in masks.items()
        }


class DecoderForCausalLM(DecoderPreTrainedModel, GenerationMixin):
    """The decoder with a head over the vocabulary, tied to the embeddings or not."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: DecoderConfig):
        super().__init__(config)
        self.model = DecoderModel(config)
        self.lm_head = Head(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """`labels` are the input ids themselves (shifted here), -100 where nothing is to be learned.

        With experts, the output in training is a SparseCausalLMOutput, whose `aux_loss` the loss has in it; elsewhere
        where `output_router_logits` asks for it."""
        if self.config.num_experts is not None:
            kwargs.setdefault("output_router_logits", self.training)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        values = {
            "logits": logits,
            "past_key_values": outputs.past_key_values,
            "hidden_states": outputs.hidden_states,
            "attentions": outputs.attentions,
        }
        if not outputs.get("router_logits"):
            return CausalLMOutputWithPast(loss=loss, **values)
        is_token = self._is_token(outputs.last_hidden_state, attention_mask, input_ids)
        router = router_outputs(outputs.router_logits, is_token, self.config)
        if loss is not None:
            loss = loss + router["aux_loss"]
        return SparseCausalLMOutput(loss=loss, **values, **router)

    def _is_token(self, states: Tensor, attention_mask: Tensor | dict | None, input_ids: Tensor | None) -> Tensor:
        """(rows, tokens): False for padding, which is what `attention_mask` marks, else what equals `pad_token_id`."""
        if _is_padding_mask(attention_mask):
            return attention_mask[:, -states.shape[1] :].bool()
        if input_ids is not None and self.config.pad_token_id is not None:
            return input_ids != self.config.pad_token_id
        return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)


def _is_packed(
    position_ids: Tensor | None, attention_mask: Tensor | dict | None, past_key_values: Cache | None
) -> bool:
    """Whether some row's positions restart between two real tokens (left padding repeats positions, harmlessly)."""
    is_prepared = attention_mask is not None and not _is_padding_mask(attention_mask)
    if position_ids is None or position_ids.shape[-1] == 1 or is_prepared:
        return False
    if is_tracing(position_ids):  # values cannot be read: without a cache, make the mask that is right for both
        return past_key_values is None
    restarts = position_ids.diff(dim=-1) != 1
    if attention_mask is not None:
        is_token = attention_mask[:, -position_ids.shape[-1] :].bool()
        restarts = restarts & is_token[:, 1:] & is_token[:, :-1]
    is_packed = bool(restarts.any())
    if is_packed and past_key_values is not None:
        raise ValueError("position_ids restart, so these rows are packed; packed rows cannot use past_key_values")
    return is_packed


def _documents(position_ids: Tensor, attention_mask: Tensor | dict | None) -> Tensor:
    """Positions in which each document is one run of consecutive numbers and padding joins none."""
    if not _is_padding_mask(attention_mask):
        return position_ids
    return position_ids.expand(attention_mask.shape).masked_fill(~attention_mask.bool(), PADDING)


def _is_padding_mask(attention_mask: Tensor | dict | None) -> TypeGuard[Tensor]:
    return isinstance(attention_mask, Tensor) and attention_mask.ndim == 2
