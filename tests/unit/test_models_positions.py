"""Positions mean what transformers' own models mean by them, wherever padding, packing and caches move the tokens."""

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, MptConfig, MptForCausalLM, StaticCache
from transformers.models.t5.modeling_t5 import T5Attention, T5Config

from custom_models import DecoderConfig, DecoderForCausalLM
from custom_models.positions import alibi_slopes, build_position_bias, relative_buckets

torch.set_num_threads(1)
VOCAB_SIZE = 97
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}
ALIBI = {"position_embedding": "alibi"}
RELATIVE = {
    "position_embedding": "relative_bias",
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 6,
}
BIASES = pytest.mark.parametrize("parts", [ALIBI, RELATIVE], ids=["alibi", "relative"])
KERNELS = pytest.mark.parametrize("attention", ["sdpa", "eager"])
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 3}


def decoder(*, attention: str = "sdpa", **changes) -> DecoderForCausalLM:
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = DecoderConfig(**{"vocab_size": VOCAB_SIZE, "initializer_range": 0.2, **small, **changes})
    model = DecoderForCausalLM(config).eval()
    if model.model.position_bias is not None:  # a table that says little would hide mistakes
        for table in model.model.position_bias.parameters():
            torch.nn.init.normal_(table, std=2.0)
    model.set_attn_implementation(attention)
    return model


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(1, VOCAB_SIZE, (rows, length), generator=torch.Generator().manual_seed(1))


# --- biases -----------------------------------------------------------------------------------------------------------


def test_slopes_are_the_papers_for_eight_heads_and_its_codes_for_twelve():
    assert alibi_slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert alibi_slopes(12) == [*alibi_slopes(8), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    assert alibi_slopes(1) == [1 / 256]


@pytest.mark.equality
@pytest.mark.parametrize("num_heads", [4, 6])
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_with_alibi_and_mpts_parts_logits_and_gradients_are_mpts(side, num_heads):
    sizes = {"num_attention_heads": num_heads, "num_key_value_heads": num_heads, "hidden_size": 8 * num_heads}
    ours = decoder(**ALIBI, **sizes, norm="layer_norm", feed_forward="gelu")
    width = 8 * num_heads
    theirs = MptForCausalLM(MptConfig(vocab_size=VOCAB_SIZE, d_model=width, n_heads=num_heads, n_layers=2)).eval()
    theirs.transformer.wte.weight.data.copy_(ours.model.embed_tokens.weight.data)
    for block, layer in zip(theirs.transformer.blocks, ours.model.layers, strict=True):
        attention = layer.self_attn
        fused = [part.weight for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
        block.attn.Wqkv.weight.data = torch.cat(fused).detach().clone()
        block.attn.out_proj.weight.data = attention.o_proj.weight.detach().clone()
        # MPT's gelu is exact, ours the tanh approximation: the same function on both sides
        block.ffn.act = torch.nn.GELU(approximate="tanh")
        block.ffn.up_proj.weight.data = layer.mlp.up_proj.weight.detach().clone()
        block.ffn.down_proj.weight.data = layer.mlp.down_proj.weight.detach().clone()
    theirs.tie_weights()
    ids, index, padded = tokens(3, 12), torch.arange(12), torch.arange(3)[:, None]
    mask = None if side is None else ((index >= padded) if side == "left" else (index < 12 - padded)).long()
    is_token = slice(None) if mask is None else mask.bool()
    with torch.no_grad():
        mine, other = ours(ids, attention_mask=mask).logits, theirs(ids, attention_mask=mask).logits
    torch.testing.assert_close(mine[is_token], other[is_token], **TOLERANCE)


@pytest.mark.equality
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(8, 6), (32, 128), (6, 20)])
def test_the_relative_bias_is_t5s(num_buckets, max_distance, is_causal):
    names = {"relative_attention_num_buckets": num_buckets, "relative_attention_max_distance": max_distance}
    config = DecoderConfig(**{**RELATIVE, **names})
    ours = build_position_bias(config, is_causal=is_causal)
    config._attn_implementation = "eager"
    theirs = T5Attention(T5Config(num_heads=4, is_decoder=is_causal, **names), has_relative_attention_bias=True)
    theirs.relative_attention_bias.weight.data.copy_(ours.relative_attention_bias.weight.data)
    states = torch.zeros(1, 300, 256)
    seen = torch.ones(1, 1, 300, 300, dtype=torch.bool)
    assert torch.equal(ours(seen, states), theirs.compute_bias(300, 300))
    unmasked = ours(None, states)
    hidden = torch.ones(300, 300, dtype=torch.bool).triu(1) & torch.tensor(is_causal)
    assert (unmasked[..., hidden] == torch.finfo(torch.float32).min).all()
    assert torch.equal(unmasked[..., ~hidden], theirs.compute_bias(300, 300)[..., ~hidden])


def test_buckets_by_hand():
    distances = torch.tensor([[0, -1, -2, -3, -4, -5, -6, -100, 1, 5]])
    causal = relative_buckets(distances, num_buckets=8, max_distance=16, is_causal=True)
    assert causal.tolist() == [[0, 1, 2, 3, 4, 4, 5, 7, 0, 0]]
    both = relative_buckets(distances, num_buckets=8, max_distance=16, is_causal=False)
    assert both.tolist() == [[0, 1, 2, 2, 2, 2, 3, 3, 5, 6]]


@BIASES
@KERNELS
def test_a_bias_moves_the_logits_and_both_kernels_agree(attention, parts):
    ids = tokens(2, 12)
    biased = decoder(attention=attention, **parts)(ids).logits
    assert (biased - decoder(position_embedding="none")(ids).logits).abs().max() > 0.1
    torch.testing.assert_close(biased, decoder(**parts)(ids).logits, **TOLERANCE)


@BIASES
@KERNELS
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_has_the_logits_it_has_alone(side, attention, parts):
    model, ids = decoder(attention=attention, **parts), tokens(3, 10)
    index, padded = torch.arange(10), 2 * torch.arange(3)[:, None]
    mask = ((index >= padded) if side == "left" else (index < 10 - padded)).long()
    logits = model(ids, attention_mask=mask).logits
    for row in range(3):
        is_token = mask[row].bool()
        torch.testing.assert_close(logits[row, is_token], model(ids[row, is_token][None]).logits[0], **TOLERANCE)


@BIASES
@KERNELS
def test_a_packed_document_has_the_logits_it_has_alone(attention, parts):
    model, ids = decoder(attention=attention, **parts), tokens(1, 12)
    positions = torch.cat([torch.arange(n) for n in (3, 7, 2)])[None]
    packed = model(ids, position_ids=positions).logits
    for start, stop in ((0, 3), (3, 10), (10, 12)):
        torch.testing.assert_close(packed[:, start:stop], model(ids[:, start:stop]).logits, **TOLERANCE)


@BIASES
@KERNELS
@pytest.mark.parametrize("layers", [{}, SLIDING], ids=["full", "sliding"])
def test_cached_logits_are_the_uncached_ones(layers, attention, parts):
    model, ids = decoder(attention=attention, **parts, **layers), tokens(2, 12)
    mask = torch.ones(2, 12).long()
    mask[1, :3] = 0
    whole = model(ids, attention_mask=mask).logits
    output = model(ids[:, :4], attention_mask=mask[:, :4], use_cache=True)
    for start, stop in ((4, 5), (5, 8), (8, 9), (9, 12)):
        output = model(ids[:, start:stop], attention_mask=mask[:, :stop], past_key_values=output.past_key_values)
        torch.testing.assert_close(output.logits, whole[:, start:stop], **TOLERANCE)


@BIASES
@pytest.mark.parametrize("layers", [{}, SLIDING], ids=["full", "sliding"])
def test_generation_is_that_without_a_cache_also_with_a_static_one_and_left_padding(layers, parts):
    model, ids = decoder(**parts, **layers), tokens(2, 6)
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    settings = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(ids, use_cache=False, **settings)
    assert torch.equal(plain, model.generate(ids, use_cache=True, **settings))
    cache = StaticCache(config=model.config, max_cache_len=16)
    assert torch.equal(plain, model.generate(ids, past_key_values=cache, **settings))


@BIASES
def test_activation_checkpointing_leaves_the_gradients_alone(parts):
    gradients, ids = [], tokens(2, 9)
    for checkpoints in (False, True):
        model = decoder(**parts).train()
        if checkpoints:
            model.activation_checkpointing_enable()
        model(ids, labels=ids).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1], atol=0, rtol=0)
    assert all(gradient.abs().max() > 0 for gradient in gradients[0].values())


def test_a_kernel_that_takes_no_bias_is_refused():
    model = decoder(**ALIBI)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="alibi is not supported with flash_attention_2, which takes no bias"):
        model.model.position_bias(None, torch.zeros(1, 4, 32))


# --- rope scaling -----------------------------------------------------------------------------------------------------


@pytest.mark.equality
@pytest.mark.parametrize(
    ("kind", "factor", "original", "theta"),
    [("linear", 4.0, None, 10_000.0), ("yarn", 4.0, 16, 10_000.0), ("yarn", 2.5, 512, 500.0), ("yarn", 8, 64, 1e6)],
)
def test_scaled_rope_is_llamas(kind, factor, original, theta):
    scaling = {"rope_scaling_type": kind, "rope_scaling_factor": factor, "original_max_position_embeddings": original}
    ours = decoder(**scaling, rope_theta=theta, hidden_size=64)
    names = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads"
    same = {name: getattr(ours.config, name) for name in (*names.split(), "head_dim", "tie_word_embeddings")}
    rope = {"rope_type": kind, "factor": float(factor), "rope_theta": theta}
    if original:
        rope["original_max_position_embeddings"] = original
    twin = LlamaForCausalLM(LlamaConfig(**same, rms_norm_eps=1e-5, rope_parameters=rope)).eval()
    twin.load_state_dict(ours.state_dict())
    ids = tokens(2, 90)
    with torch.no_grad():
        logits = ours(ids).logits
        torch.testing.assert_close(logits, twin(ids).logits, **TOLERANCE)
        unscaled = decoder(rope_theta=theta, hidden_size=64)(ids).logits
        assert (logits - unscaled).abs().max() > 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling_factor": 2.0}, "need a rope_scaling_type"),
        ({"rope_scaling_type": "ntk", "rope_scaling_factor": 2.0}, "must be linear or yarn"),
        ({"rope_scaling_type": "linear", "rope_scaling_factor": 2.0, **ALIBI}, "belongs to rope"),
        ({"rope_scaling_type": "linear"}, "rope_scaling_factor is 1.0; it must be above 1"),
        ({"rope_scaling_type": "yarn", "rope_scaling_factor": 2.0}, "yarn needs the longest row"),
        (
            {"rope_scaling_type": "linear", "rope_scaling_factor": 2.0, "original_max_position_embeddings": 8},
            "linear does not know it",
        ),
        ({"relative_attention_num_buckets": 7}, "an even number of at least 4"),
        ({"relative_attention_num_buckets": 64, "relative_attention_max_distance": 32}, "more than half of that"),
    ],
)
def test_what_no_model_could_honour_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DecoderConfig(**changes)
