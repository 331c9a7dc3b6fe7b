"""Weights start as the source of each rule says, and `normal` draws what transformers' own initialisation draws."""

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, T5Config, T5ForConditionalGeneration

from custom_models import (
    DecoderConfig,
    DecoderForCausalLM,
    DecoderForSequenceClassification,
    EncoderDecoderConfig,
    EncoderDecoderForConditionalGeneration,
)
from custom_models.decoder import DecoderPreTrainedModel

torch.set_num_threads(1)
SMALL = {"vocab_size": 400, "hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4}
SPECIAL = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
SPARSE = {"num_experts": 4, "num_shared_experts": 1, "moe_intermediate_size": 96}
WIDTH = 176  # of the feed-forward: 8 / 3 of 64, rounded up


def decoder(**changes) -> DecoderForCausalLM:
    torch.manual_seed(0)
    return DecoderForCausalLM(DecoderConfig(**{**SMALL, **changes}))


def spread(model: torch.nn.Module, part: str) -> float:
    """Standard deviation of all weights whose name has `part` in it."""
    found = [weight.flatten() for name, weight in model.named_parameters() if part in name and weight.ndim > 1]
    return torch.cat(found).std().item()


@pytest.mark.parametrize("parts", [{}, {"position_embedding": "learned", "norm": "layer_norm", "mlp_bias": True}])
@pytest.mark.parametrize("is_tied", [True, False])
def test_normal_draws_what_transformers_draws_bit_for_bit(monkeypatch, is_tied, parts):
    ours = decoder(tie_word_embeddings=is_tied, **parts).state_dict()
    monkeypatch.setattr(DecoderPreTrainedModel, "_init_weights", PreTrainedModel._init_weights)
    theirs = decoder(tie_word_embeddings=is_tied, **parts).state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_gpt2_is_transformers_gpt2():
    ours = decoder(initializer="gpt2", initializer_range=0.03, position_embedding="learned")
    sizes = {"n_embd": 64, "n_layer": 8, "n_head": 4, "initializer_range": 0.03}
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=400, **sizes))
    pairs = [("o_proj", "attn.c_proj"), ("down_proj", "mlp.c_proj"), ("q_proj", "c_attn"), ("up_proj", "c_fc")]
    for mine, other in (*pairs, ("embed_tokens", "wte"), ("embed_positions", "wpe")):
        assert spread(ours, mine) == pytest.approx(spread(theirs, other), rel=0.03), mine


EXPECTED = {
    "gpt2": {"q_proj": 0.02, "o_proj": 0.005, "experts.down_proj": 0.005, "experts.up_proj": 0.02, "router": 0.02},
    "small_init": {
        "embed_tokens": math.sqrt(2 / 320),
        "q_proj": math.sqrt(2 / 320),
        "experts.gate_proj": math.sqrt(2 / 320),
        "router": math.sqrt(2 / 320),
        "o_proj": 2 / (8 * 8),
        "experts.down_proj": 2 / (8 * 8),
        "shared_experts.down_proj": 2 / (8 * 8),
    },
    "xavier_uniform": {
        "embed_tokens": 1 / 8,
        "lm_head": 1 / 8,
        "q_proj": math.sqrt(2 / 128),
        "o_proj": math.sqrt(2 / 128),
        "experts.up_proj": math.sqrt(2 / (64 + 96)),
        "experts.down_proj": math.sqrt(2 / (64 + 96)),
        "router": math.sqrt(2 / (64 + 4)),
    },
    "t5": {
        "embed_tokens": 1.0,
        "lm_head": 1 / 8,
        "q_proj": 1 / 8,
        "o_proj": 1 / 8,
        "experts.up_proj": 1 / 8,
        "experts.down_proj": 96**-0.5,
        "relative_attention_bias": 1 / 8,
    },
}


@pytest.mark.parametrize("initializer", EXPECTED)
def test_spreads_are_those_of_the_source(initializer):
    parts = {"position_embedding": "relative_bias", "tie_word_embeddings": False, **SPARSE}
    model = decoder(initializer=initializer, **parts)
    for part, expected in EXPECTED[initializer].items():
        tolerance = 0.2 if part == "relative_attention_bias" else 0.06  # 32 buckets of 4 heads
        assert spread(model, part) == pytest.approx(expected, rel=tolerance), part
    others = [weight for weight in model.parameters() if weight.ndim == 1]
    assert others and all((weight == 1).all() for weight in others)


def test_with_t5s_attention_and_head_weights_start_as_transformers_t5():
    sizes = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128, "vocab_size": 400, **SPECIAL}
    style = {"position_embedding": "relative_bias", "attention_scaling": 1.0, "scale_head": True, "initializer": "t5"}
    torch.manual_seed(0)
    config = EncoderDecoderConfig(num_hidden_layers=4, num_attention_heads=4, feed_forward="relu", **sizes, **style)
    ours = EncoderDecoderForConditionalGeneration(config)
    theirs = T5ForConditionalGeneration(
        T5Config(vocab_size=400, d_model=64, d_kv=16, d_ff=128, num_layers=4, num_heads=4)
    )
    pairs = {
        "q_proj": "Attention.q",
        "k_proj": "Attention.k",
        "o_proj": "Attention.o",
        "up_proj": "wi",
        "down_proj": "wo",
    }
    for mine, other in pairs.items() | {("embed_tokens", "shared"), ("position_bias", "relative_attention_bias")}:
        tolerance = 0.25 if mine == "position_bias" else 0.05
        assert spread(ours, mine) == pytest.approx(spread(theirs, other), rel=tolerance), mine


def test_xavier_is_uniform_within_its_bound():
    weight = decoder(initializer="xavier_uniform").model.layers[0].mlp.up_proj.weight
    bound = math.sqrt(6 / (64 + WIDTH))
    assert 0.98 * bound < weight.abs().max() <= bound


@pytest.mark.parametrize("scale_embeddings", [True, False])
@pytest.mark.parametrize("is_tied", [True, False])
def test_with_t5_logits_start_near_one_whatever_is_tied(is_tied, scale_embeddings):
    model = decoder(initializer="t5", tie_word_embeddings=is_tied, scale_embeddings=scale_embeddings)
    assert 0.5 < model(torch.arange(400)[None]).logits.std() < 2


@pytest.mark.parametrize("initializer", ["normal", *EXPECTED])
def test_loaded_weights_stay_and_a_new_head_is_drawn(tmp_path, initializer):
    model = decoder(initializer=initializer, num_hidden_layers=2, **SPARSE)
    model.save_pretrained(tmp_path)
    again = DecoderForCausalLM.from_pretrained(tmp_path)
    reward = DecoderForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    for name, weight in model.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
        assert torch.equal(weight, reward.model.state_dict()[name]), name
    assert 0.01 < reward.score.weight.std() < 0.3


def test_a_range_that_no_rule_reads_is_refused():
    with pytest.raises(ValueError, match="initializer_range belongs to normal and gpt2, and initializer is t5"):
        DecoderConfig(initializer="t5", initializer_range=0.1)
    with pytest.raises(ValueError, match="must be one of normal, gpt2, small_init, xavier_uniform, t5"):
        DecoderConfig(initializer="he")
