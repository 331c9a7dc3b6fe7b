"""The encoder: embeddings and a stack of blocks whose tokens see each other in both directions; a head that guesses
masked tokens, and one that scores whole sequences."""
# mypy: no-strict-optional, disable-error-code="misc"

from itertools import cycle
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput, SequenceClassifierOutput
from transformers.utils import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention import Attention
from .configuration import EncoderConfig, TransformerConfig
from .embeddings import EmbeddingsMixin
from .initializers import initialise
from .layers import Block, Head, build_norm
from .masks import bidirectional_masks, documents_of, is_packed


class EncoderPreTrainedModel(PreTrainedModel):
    """What transformers must know of the family."""

    config: EncoderConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["Block"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_record_outputs: ClassVar[dict] = {
        "hidden_states": Block,
        "attentions": OutputRecorder(Attention, index=1, layer_name="self_attn"),
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        initialise(module, self.config)


class EncoderModel(EmbeddingsMixin, EncoderPreTrainedModel):
    """From token ids to the last hidden states.

    Rows whose `position_ids` restart are packed: each run of consecutive positions is a document that sees only
    itself. An encoder-decoder's encoder is one too, with its own number of layers."""

    def __init__(self, config: TransformerConfig, num_layers: int | None = None):
        super().__init__(config)
        self.build_embeddings(config, is_causal=False)
        self.layers = nn.ModuleList(
            Block(config, Attention(config, layer_idx, is_causal=False))
            for layer_idx in range(num_layers or config.num_hidden_layers)
        )
        # Where norms come after each sum, the last block ends with one.
        self.norm = nn.Identity() if config.norm_placement == "post" else build_norm(config, config.hidden_size)
        self.gradient_checkpointing = False
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        """`token_type_ids`, (rows, tokens), number the segments; without them all tokens are in the first."""
        inputs_embeds = self.embedded(input_ids, inputs_embeds)
        packed = is_packed(position_ids, attention_mask)
        positions = self.positions(inputs_embeds, attention_mask, position_ids)
        documents = documents_of(position_ids, attention_mask) if packed else None
        masks = bidirectional_masks(self.config, inputs_embeds, attention_mask, documents)
        masks = self.biased(masks, inputs_embeds)
        hidden_states, angles = self.embed(inputs_embeds, positions, token_type_ids)
        # An encoder-decoder's encoder of another depth has layers of one type.
        for layer, layer_type in zip(self.layers, cycle(self.config.layer_types), strict=False):
            hidden_states = layer(hidden_states, attention_mask=masks[layer_type], position_embeddings=angles, **kwargs)
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states))


class HeadTransform(nn.Module):
    """What BERT does before its head: a dense layer, exact gelu, a norm."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = build_norm(config, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.norm(F.gelu(self.dense(hidden_states)))


class EncoderForMaskedLM(EncoderPreTrainedModel):
    """The encoder with a head over the vocabulary, tied to the embeddings or not."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: EncoderConfig):
        super().__init__(config)
        self.model = EncoderModel(config)
        self.head_transform = HeadTransform(config) if config.head_transform else None
        self.lm_head = Head(config, bias=config.head_bias)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        places: Tensor | None = None,
        **kwargs,
    ) -> MaskedLMOutput:
        """`labels` are the tokens behind the masks, -100 elsewhere. With `places`, (rows, tokens) of booleans, logits
        are computed for these tokens only, (places, vocab_size): the head is a large part of a small model's work."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        if places is not None:
            hidden_states, labels = hidden_states[places], None if labels is None else labels[places]
        if self.head_transform is not None:
            hidden_states = self.head_transform(hidden_states)
        logits = self.lm_head(hidden_states)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class Pooler(nn.Module):
    """The first token's state or the mean of all; in BERT's way also through a dense layer and tanh."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.takes_mean = config.classifier_pooling == "mean"
        self.dense = nn.Linear(config.hidden_size, config.hidden_size) if config.pooler else None

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(rows, hidden_size); the first token is the first that `attention_mask` marks."""
        if self.takes_mean:
            mask = torch.ones_like(hidden_states[..., 0]) if attention_mask is None else attention_mask
            weights = mask.to(hidden_states.dtype).unsqueeze(-1)
            pooled = (hidden_states * weights).sum(1) / weights.sum(1)
        elif attention_mask is None:
            pooled = hidden_states[:, 0]
        else:
            pooled = hidden_states[torch.arange(len(hidden_states)), attention_mask.long().argmax(dim=-1)]
        return pooled if self.dense is None else torch.tanh(self.dense(pooled))


class EncoderForSequenceClassification(EncoderPreTrainedModel):
    """`num_labels` scores of each row, read at its first token or from the mean of all."""

    # A masked language model may become a classifier.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^lm_head\.", r"^head_transform\."]

    def __init__(self, config: EncoderConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = EncoderModel(config)
        self.pooler = Pooler(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        """Scores, (rows, num_labels)."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        pooled = self.pooler(outputs.last_hidden_state, attention_mask)
        if self.config.dropout and self.training:
            pooled = F.dropout(pooled, self.config.dropout)
        logits = self.score(pooled)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
