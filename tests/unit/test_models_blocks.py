"""Blocks beyond Llama's and GPT-2's mean what other people's models mean by them."""

import math

import pytest
import torch
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2ForCausalLM, StableLmConfig, StableLmForCausalLM

from custom_models import DecoderConfig, DecoderForCausalLM
from custom_models.layers import build_norm

torch.set_num_threads(1)
VOCAB_SIZE = 97
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
GEMMA2 = {
    "feed_forward": "geglu",
    "norm_placement": "sandwich",
    "scale_embeddings": True,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 4,
}
KINDS = {
    "gemma2": GEMMA2,
    "partial rope": {"partial_rotary_factor": 0.5},
    "sinusoidal, post-norm": {"position_embedding": "sinusoidal", "norm_placement": "post", "feed_forward": "relu"},
    "no positions, gate": {"position_embedding": "none", "attention_output_gate": True, "feed_forward": "relu2"},
}


def decoder(*, attention: str = "sdpa", **changes) -> DecoderForCausalLM:
    torch.manual_seed(0)
    settings = {"vocab_size": VOCAB_SIZE, "initializer_range": 0.2, "max_position_embeddings": 64, **SMALL, **changes}
    model = DecoderForCausalLM(DecoderConfig(**settings)).eval()
    model.set_attn_implementation(attention)
    for name, parameter in model.named_parameters():  # norms of one and biases of nought would hide mistakes
        if "norm" in name or name.endswith("bias"):
            nn.init.normal_(parameter, mean=1.0 if name.endswith("weight") else 0.0, std=0.2)
    return model


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(1, VOCAB_SIZE, (rows, length), generator=torch.Generator().manual_seed(1))


def same_logits(ours: DecoderForCausalLM, theirs: nn.Module, *, mask: Tensor | None = None) -> None:
    ids = tokens(3, 12)
    theirs = theirs.eval()
    is_token = slice(None) if mask is None else mask.bool()
    logits = [model(input_ids=ids, attention_mask=mask).logits[is_token] for model in (ours, theirs)]
    torch.testing.assert_close(*logits, **TOLERANCE)


@pytest.mark.equality
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [0, 5])
def test_with_gemma_2s_parts_logits_are_gemma_2s(attention: str, padded: int) -> None:
    ours = decoder(attention=attention, norm_eps=1e-6, **GEMMA2)
    same = {name: getattr(ours.config, name) for name in (*SMALL, "head_dim", "intermediate_size", "vocab_size")}
    config = Gemma2Config(
        **same,
        sliding_window=4,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=ours.config.head_dim,
        layer_types=list(ours.config.layer_types),
        rms_norm_eps=1e-6,
        pad_token_id=None,
    )
    theirs = Gemma2ForCausalLM(config)
    theirs.set_attn_implementation("eager")
    weights = {name: w - 1 if "norm" in name else w for name, w in ours.state_dict().items()}  # theirs add one
    theirs.load_state_dict(weights, strict=True)
    mask = (torch.arange(12) >= padded * torch.arange(3)[:, None] // 2).long() if padded else None
    same_logits(ours, theirs, mask=mask)


@pytest.mark.equality
def test_with_a_part_of_each_head_turned_logits_are_stable_lms() -> None:
    ours = decoder(partial_rotary_factor=0.25, norm="layer_norm", num_key_value_heads=4, tie_word_embeddings=False)
    same = {name: getattr(ours.config, name) for name in (*SMALL, "intermediate_size", "vocab_size")}
    parts = {"rope_type": "default", "partial_rotary_factor": 0.25, "rope_theta": 10_000.0}
    theirs = StableLmForCausalLM(
        StableLmConfig(**same, rope_parameters=parts, layer_norm_eps=1e-5, use_qkv_bias=False, pad_token_id=None)
    )
    theirs.load_state_dict(ours.state_dict(), strict=True)
    same_logits(ours, theirs)


@pytest.mark.equality
def test_the_blocks_of_2017_are_torchs_transformer_layers() -> None:
    """Post-norm, relu and layer_norm; the embeddings are scaled and have sines and cosines added."""
    parts = KINDS["sinusoidal, post-norm"] | {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}
    ours = decoder(norm="layer_norm", scale_embeddings=True, **parts)
    ids = tokens(2, 9)
    hidden = ours.model.embed_tokens(ids) * math.sqrt(32)
    for place in range(9):
        for pair in range(16):
            angle = place / 10_000 ** (2 * pair / 32)
            hidden[:, place, 2 * pair] += math.sin(angle)
            hidden[:, place, 2 * pair + 1] += math.cos(angle)
    for block in ours.model.layers:
        layer = nn.TransformerEncoderLayer(32, 4, 128, dropout=0.0, batch_first=True)
        attention = block.self_attn
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": torch.cat([part.weight for part in projections]),
                "self_attn.in_proj_bias": torch.cat([part.bias for part in projections]),
                **{f"self_attn.out_proj.{name}": value for name, value in attention.o_proj.state_dict().items()},
                **{f"linear1.{name}": value for name, value in block.mlp.up_proj.state_dict().items()},
                **{f"linear2.{name}": value for name, value in block.mlp.down_proj.state_dict().items()},
                **{f"norm1.{name}": value for name, value in block.post_attention_layernorm.state_dict().items()},
                **{f"norm2.{name}": value for name, value in block.post_feedforward_layernorm.state_dict().items()},
            }
        )
        mask = nn.Transformer.generate_square_subsequent_mask(9)
        hidden = layer.eval()(hidden, src_mask=mask, is_causal=True)
    torch.testing.assert_close(ours.model(input_ids=ids).last_hidden_state, hidden, **TOLERANCE)


def test_the_gate_scales_what_each_head_reads() -> None:
    ours, plain = decoder(attention_output_gate=True), decoder()
    plain.load_state_dict(ours.state_dict(), strict=False)
    for block in ours.model.layers:
        nn.init.zeros_(block.self_attn.gate_proj.weight)  # a sigmoid of nought is a half
    for block in plain.model.layers:
        block.self_attn.o_proj.weight.data.mul_(0.5)
    same_logits(ours, plain)


def test_a_cap_is_refused_where_the_kernel_has_none() -> None:
    model = decoder(attn_logit_softcapping=2.0)
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="attn_logit_softcapping is not supported with flex_attention"):
        model(input_ids=tokens(1, 4))


def test_relu2_is_the_square_of_relu() -> None:
    ours, states = decoder(feed_forward="relu2").model.layers[0].mlp, torch.randn(2, 3, 32)
    inner = states @ ours.up_proj.weight.T
    expected = torch.where(inner > 0, inner * inner, 0.0) @ ours.down_proj.weight.T
    torch.testing.assert_close(ours(states), expected, **TOLERANCE)


def test_the_cap_is_in_the_head_itself() -> None:
    ours = decoder(final_logit_softcapping=0.5)
    states = torch.randn(4, 32) * 10
    capped = ours.get_output_embeddings()(states)
    torch.testing.assert_close(capped, 0.5 * torch.tanh(states @ ours.lm_head.weight.T / 0.5), **TOLERANCE)
    assert capped.abs().max() <= 0.5


@pytest.mark.parametrize("parts", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_documents_and_the_future_stay_unseen(parts: dict, attention: str) -> None:
    model = decoder(attention=attention, **parts)
    ids, positions = tokens(1, 11), torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]])
    packed = model(input_ids=ids, position_ids=positions).logits
    alone = [model(input_ids=part).logits for part in (ids[:, :5], ids[:, 5:])]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), **TOLERANCE)
    changed = ids.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % VOCAB_SIZE
    torch.testing.assert_close(model(input_ids=changed).logits[:, :8], model(input_ids=ids).logits[:, :8], **TOLERANCE)


@pytest.mark.parametrize("parts", KINDS.values(), ids=KINDS)
def test_generation_is_the_same_with_and_without_a_cache_padded_and_alone(parts: dict) -> None:
    model = decoder(**parts)
    ids, mask = tokens(2, 6), torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    settings = {"do_sample": False, "max_new_tokens": 9, "pad_token_id": 0}
    cached, uncached = (model.generate(ids, attention_mask=mask, use_cache=use, **settings) for use in (True, False))
    assert cached.tolist() == uncached.tolist()
    assert model.generate(ids[:1, 2:], **settings)[0, 4:].tolist() == cached[0, 6:].tolist()


def test_stochastic_depth_skips_rows_in_training_only_and_keeps_the_mean() -> None:
    block = decoder(stochastic_depth=0.25).model.layers[0]
    update = torch.ones(4000, 3, 32)
    torch.manual_seed(0)
    dropped = block.train()._dropped(update)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped == dropped[:, :1, :1]).all() and dropped.mean() == pytest.approx(1, abs=0.03)
    assert block.eval()._dropped(update) is update


@pytest.mark.equality
def test_the_norms_output_and_gradients_are_torchs() -> None:
    config = DecoderConfig(hidden_size=24)
    ours, theirs = build_norm(config, 24), nn.RMSNorm(24, eps=config.norm_eps)
    torch.manual_seed(0)
    nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    inputs = torch.randn(2, 5, 3, 24).transpose(1, 2)
    found = []
    for norm in (ours, theirs):
        states = inputs.clone().requires_grad_()
        output = norm(states)
        output.square().sum().backward()
        found.append((output, states.grad, norm.weight.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(ours(inputs), found[0][0])
    for mine, other in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
    weight, ours.weight.grad = ours.weight.grad, None
    ours.weight.requires_grad_(False)  # as beside an adapter
    states = inputs.clone().requires_grad_()
    ours(states).square().sum().backward()
    assert torch.equal(states.grad, found[0][1]) and ours.weight.grad is None
    ours.weight.requires_grad_(True)
    ours(inputs).square().sum().backward()
    assert torch.equal(ours.weight.grad, weight)
