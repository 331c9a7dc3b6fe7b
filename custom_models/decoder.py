"""The decoder: embeddings, a stack of causal blocks, a head over the vocabulary; packed rows never see each other."""
# mypy: no-strict-optional, disable-error-code="misc"

from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention import Attention
from .configuration import DecoderConfig
from .embeddings import EmbeddingsMixin
from .initializers import initialise
from .layers import Block, Head, build_norm
from .masks import causal_masks, documents_of, is_packed, is_padding_mask
from .moe import Router, SparseCausalLMOutput, router_outputs


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


class DecoderModel(EmbeddingsMixin, DecoderPreTrainedModel):
    """From token ids to the last hidden states.

    Rows whose `position_ids` restart are packed: each run of consecutive positions is a document that sees only
    itself, whatever `use_cache` says and whether or not an `attention_mask` marks padding.
    """

    def __init__(self, config: DecoderConfig):
        super().__init__(config)
        self.build_embeddings(config, is_causal=True)
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
        prefix_mask: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Without `use_cache`, a cache is made outside training only.

        `prefix_mask`, (rows, tokens) of booleans, marks the first tokens of each document that see each other in both
        directions (prefix LM, arXiv 1910.10683, 3.2.1). Nothing sets it in `generate()`, which stays causal."""
        inputs_embeds = self.embedded(input_ids, inputs_embeds)
        if prefix_mask is not None and (past_key_values is not None or isinstance(attention_mask, dict)):
            raise ValueError("prefix_mask is for whole rows; it cannot be used with past_key_values or prepared masks")
        packed = is_packed(position_ids, attention_mask, past_key_values)
        if packed and len(inputs_embeds) > 1 and "flash" in self.config._attn_implementation:
            raise ValueError("flash attention keeps packed documents apart in one flattened row only; use sdpa")
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None and not packed and prefix_mask is None:
            past_key_values = DynamicCache(config=self.config)

        num_past = past_key_values.get_seq_length() if past_key_values is not None else 0
        positions = self.positions(inputs_embeds, attention_mask, position_ids, num_past)
        documents = None
        if packed:
            documents = documents_of(position_ids, attention_mask)
        elif prefix_mask is not None:
            documents = documents_of(positions.expand(inputs_embeds.shape[:2]), attention_mask)
        masks = causal_masks(self.config, inputs_embeds, attention_mask, documents, past_key_values, prefix_mask)
        masks = self.biased(masks, inputs_embeds, past_key_values)
        hidden_states, angles = self.embed(inputs_embeds, positions)
        for layer, layer_type in zip(self.layers, self.config.layer_types, strict=True):
            hidden_states = layer(
                hidden_states,
                attention_mask=masks[layer_type],
                position_embeddings=angles,
                past_key_values=past_key_values,
                position_ids=documents if packed else positions,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)


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
        prefix_mask: Tensor | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """`labels` are the input ids themselves (shifted here), -100 where nothing is to be learned. For
        `prefix_mask` see `DecoderModel`.

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
            prefix_mask=prefix_mask,
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
        if is_padding_mask(attention_mask):
            return attention_mask[:, -states.shape[1] :].bool()
        if input_ids is not None and self.config.pad_token_id is not None:
            return input_ids != self.config.pad_token_id
        return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
