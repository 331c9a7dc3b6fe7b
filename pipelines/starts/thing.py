"""Thing: a decoder of your own. Change what you like; a run checks that its tokens and documents see what they may."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GenericForSequenceClassification, GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast


@strict
class ThingConfig(PreTrainedConfig):  # its fields are what a recipe may set under `model`
    model_type = "thing"
    vocab_size: int = 512
    hidden_size: int = 128
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    max_position_embeddings: int = 1024
    tie_word_embeddings: bool = True


class ThingBlock(GradientCheckpointingLayer):
    def __init__(self, config: ThingConfig, layer_idx: int):
        super().__init__()
        size, self.num_heads, self.layer_idx = config.hidden_size, config.num_attention_heads, layer_idx
        self.attention_norm, self.mlp_norm = nn.RMSNorm(size, eps=1e-6), nn.RMSNorm(size, eps=1e-6)
        self.qkv_proj, self.o_proj = nn.Linear(size, 3 * size, bias=False), nn.Linear(size, size, bias=False)
        self.up_proj, self.down_proj = nn.Linear(size, 4 * size, bias=False), nn.Linear(4 * size, size, bias=False)

    def forward(self, states, mask, cache):
        parts = self.qkv_proj(self.attention_norm(states)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        is_causal = mask is None and query.shape[2] > 1
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=is_causal)
        states = states + self.o_proj(read.transpose(1, 2).flatten(2))
        return states + self.down_proj(F.relu(self.up_proj(self.mlp_norm(states))).square())


class ThingPreTrainedModel(PreTrainedModel):
    config: ThingConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True


class ThingModel(ThingPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(ThingBlock(config, number) for number in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=1e-6)
        self.post_init()

    def forward(
        self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None, **kwargs
    ):
        states, cache = self.embed_tokens(input_ids), past_key_values
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        given = {"inputs_embeds": states, "attention_mask": attention_mask, "position_ids": position_ids}
        mask = create_causal_mask(config=self.config, past_key_values=cache, **given)  # packed documents stay apart
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -states.shape[1] :]
        elif position_ids is None:
            past = cache.get_seq_length() if cache is not None else 0
            position_ids = torch.arange(past, past + states.shape[1], device=states.device)[None]
        states = states + self.embed_positions(position_ids)
        for layer in self.layers:
            states = layer(states, mask, cache)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(states), past_key_values=cache)


class ThingForCausalLM(ThingPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        self.model = ThingModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids=None, labels=None, logits_to_keep=0, **kwargs):
        outputs = self.model(input_ids=input_ids, **kwargs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits, loss = self.lm_head(outputs.last_hidden_state[:, kept]), None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=outputs.past_key_values)


class ThingForSequenceClassification(GenericForSequenceClassification, ThingPreTrainedModel):
    """For reward models and classifiers."""
