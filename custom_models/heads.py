"""A decoder that scores whole sequences: reward models and classifiers."""
# mypy: no-strict-optional, disable-error-code="misc"

from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.utils import can_return_tuple

from .configuration import DecoderConfig
from .decoder import DecoderModel, DecoderPreTrainedModel


class DecoderForSequenceClassification(DecoderPreTrainedModel):
    """`num_labels` scores (one for a reward model) read at each row's last token."""

    # A language model may become a reward model.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^lm_head\."]

    def __init__(self, config: DecoderConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = DecoderModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> SequenceClassifierOutputWithPast:
        """Scores, (rows, num_labels). Padding is what `attention_mask` marks, else what equals `pad_token_id`."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        last = self._last_token(hidden_states, input_ids, attention_mask)
        logits = self.score(hidden_states[torch.arange(len(last), device=last.device), last])
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _last_token(self, hidden_states: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        """Index of each row's last token that is not padding, on whichever side the padding is."""
        rows, tokens = hidden_states.shape[:2]
        index = torch.arange(tokens, device=hidden_states.device)
        if attention_mask is not None:
            is_token = attention_mask[:, -tokens:].to(hidden_states.device)
        elif input_ids is not None and self.config.pad_token_id is not None:
            is_token = input_ids != self.config.pad_token_id
        elif rows == 1:
            is_token = index[None] >= 0
        else:
            raise ValueError("several rows and no way to tell padding: give attention_mask, or set pad_token_id")
        return (index * is_token).argmax(dim=-1)
