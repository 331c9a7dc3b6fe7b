"""The encoder-decoder: an encoder, and a causal stack that reads it by cross-attention; a head over the vocabulary."""
# mypy: no-strict-optional, disable-error-code="misc"

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, DynamicCache, EncoderDecoderCache, GenerationMixin, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)
from transformers.utils import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention import Attention, CrossAttention
from .configuration import EncoderDecoderConfig
from .embeddings import EmbeddingsMixin
from .encoder import EncoderModel
from .initializers import initialise
from .layers import Block, Head, build_norm
from .masks import causal_masks

IGNORED = -100


class EncoderDecoderPreTrainedModel(PreTrainedModel):
    """What transformers must know of the family."""

    config: EncoderDecoderConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["Block"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs: ClassVar[dict] = {
        "hidden_states": Block,
        "attentions": OutputRecorder(Attention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(CrossAttention, index=1, layer_name="cross_attn"),
    }

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Which names are the same matrix. Transformers ties nothing where `tie_word_embeddings` is false, and here the
        two halves may share embeddings without that."""
        return dict(self._tied_weights_keys or {})

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        initialise(module, self.config)


class CrossDecoderModel(EmbeddingsMixin, EncoderDecoderPreTrainedModel):
    """The decoder half: from target ids and what the encoder made of the source to the last hidden states."""

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__(config)
        self.build_embeddings(config, is_causal=True)
        self.layers = nn.ModuleList(
            Block(config, Attention(config, layer_idx, is_causal=True), CrossAttention(config, layer_idx))
            for layer_idx in range(config.num_hidden_layers)
        )
        self.norm = nn.Identity() if config.norm_placement == "post" else build_norm(config, config.hidden_size)
        self.gradient_checkpointing = False
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Without `use_cache`, a cache is made outside training only."""
        inputs_embeds = self.embedded(input_ids, inputs_embeds)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache())
        elif (
            past_key_values is not None and self.config.sliding_window and not any(past_key_values.is_updated.values())
        ):
            past_key_values.cross_attention_cache = DynamicCache()  # generate() gives it windows too
        own_cache = past_key_values.self_attention_cache if past_key_values is not None else None
        num_past = own_cache.get_seq_length() if own_cache is not None else 0
        positions = self.positions(inputs_embeds, attention_mask, position_ids, num_past)
        masks = causal_masks(self.config, inputs_embeds, attention_mask, past_key_values=own_cache)
        masks = self.biased(masks, inputs_embeds, own_cache)
        cross_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=encoder_attention_mask,
            encoder_hidden_states=encoder_hidden_states,
        )
        hidden_states, angles = self.embed(inputs_embeds, positions)

        def cross_attention(attention: nn.Module, states: Tensor) -> Tensor:
            return attention(states, encoder_hidden_states, cross_mask, past_key_values)[0]

        for layer, layer_type in zip(self.layers, self.config.layer_types, strict=True):
            hidden_states = layer(
                hidden_states,
                cross_attention=cross_attention,
                attention_mask=masks[layer_type],
                position_embeddings=angles,
                past_key_values=own_cache,
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values
        )


class EncoderDecoderModel(EncoderDecoderPreTrainedModel):
    """Both halves, which share their embeddings or not."""

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__(config)
        self.encoder = EncoderModel(config, config.num_encoder_layers)
        self.decoder = CrossDecoderModel(config)
        if config.share_embeddings:
            self._tied_weights_keys = {"decoder.embed_tokens.weight": "encoder.embed_tokens.weight"}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:  # type: ignore[override]
        self.encoder.embed_tokens = value
        if self.config.share_embeddings:
            self.decoder.embed_tokens = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | dict | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> Seq2SeqModelOutput:
        """`encoder_outputs` stand for the source where it has been read already."""
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
            )
        outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoder_outputs[0],
            encoder_attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        read = encoder_outputs if isinstance(encoder_outputs, BaseModelOutput) else BaseModelOutput(*encoder_outputs)
        return Seq2SeqModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=read.last_hidden_state,
            encoder_hidden_states=read.hidden_states,
            encoder_attentions=read.attentions,
        )


class EncoderDecoderForConditionalGeneration(EncoderDecoderPreTrainedModel, GenerationMixin):
    """The encoder-decoder with a head over the vocabulary."""

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__(config)
        self.model = EncoderDecoderModel(config)
        self.lm_head = Head(config)
        tied = {f"model.{name}": f"model.{same}" for name, same in (self.model._tied_weights_keys or {}).items()}
        if config.tie_word_embeddings:
            tied["lm_head.weight"] = f"model.{'encoder' if tied else 'decoder'}.embed_tokens.weight"
        self._tied_weights_keys = tied
        self.post_init()

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.model.encoder

    def shift_right(self, labels: Tensor) -> Tensor:
        """The decoder's input for these labels: each token is guessed from those before it."""
        shifted = labels.roll(1, dims=-1)
        shifted[:, 0] = self.config.decoder_start_token_id
        return shifted.masked_fill(shifted == IGNORED, self.config.pad_token_id)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | dict | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        """`labels` are the target, (rows, tokens), -100 where nothing is to be learned; the decoder's input follows
        from them where it is not given. The loss is a mean over labels, or a sum over `num_items_in_batch`."""
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.shift_right(labels)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        if self.config.scale_head:
            hidden_states = hidden_states * self.config.hidden_size**-0.5
        logits = self.lm_head(hidden_states)
        loss = None
        if labels is not None:
            flat, targets = logits.flatten(0, 1).float(), labels.flatten()
            loss = F.cross_entropy(flat, targets, ignore_index=IGNORED, reduction="sum")
            loss = loss / (num_items_in_batch if num_items_in_batch is not None else (targets != IGNORED).sum())
        others = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
        return Seq2SeqLMOutput(loss=loss, logits=logits, **others)
