"""The decoder means what transformers' own models mean, keeps packed documents apart, and caches without a trace."""

import pytest
import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from custom_models import DecoderConfig, DecoderForCausalLM

torch.set_num_threads(1)
VOCAB_SIZE = 97
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}
GPT2_PARTS = {
    "position_embedding": "learned",
    "norm": "layer_norm",
    "feed_forward": "gelu",
    "attention_bias": True,
    "mlp_bias": True,
    "num_key_value_heads": 4,
}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 3}


def config(**changes) -> DecoderConfig:
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return DecoderConfig(**{"vocab_size": VOCAB_SIZE, "initializer_range": 0.2, **small, **changes})


def decoder(*, attention: str = "sdpa", **changes) -> DecoderForCausalLM:
    torch.manual_seed(0)
    model = DecoderForCausalLM(config(**changes)).eval()
    model.set_attn_implementation(attention)
    for name, parameter in model.named_parameters():  # norms of one and biases of nought would hide mistakes
        if "norm" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("weight") else 0.0, std=0.2)
    return model


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(1, VOCAB_SIZE, (rows, length), generator=torch.Generator().manual_seed(1))


def padding_mask(side: str | None, rows: int, length: int) -> Tensor | None:
    if side is None:
        return None
    num_padded = torch.arange(rows)[:, None]
    index = torch.arange(length)
    return ((index >= num_padded) if side == "left" else (index < length - num_padded)).long()


def logits_and_gradients(model: PreTrainedModel, ids: Tensor, mask: Tensor | None, **inputs):
    labels = ids if mask is None else ids.masked_fill(mask == 0, -100)
    output = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False, **inputs)
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    is_token = slice(None) if mask is None else mask.bool()
    return output.logits[is_token], gradients


def stock_settings(ours: DecoderConfig) -> dict:
    names = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads"
    same = {name: getattr(ours, name) for name in (*names.split(), "head_dim", "tie_word_embeddings")}
    return {**same, "rms_norm_eps": ours.norm_eps, "bos_token_id": None, "eos_token_id": None}


def stock_twin(model: DecoderForCausalLM, *, attention: str = "sdpa") -> PreTrainedModel:
    """transformers' Llama, or Qwen3 where queries and keys are normed, with the same weights."""
    config_class, model_class = LlamaConfig, LlamaForCausalLM
    if model.config.qk_norm:
        config_class, model_class = Qwen3Config, Qwen3ForCausalLM
    twin = model_class(config_class(**stock_settings(model.config))).eval()
    twin.load_state_dict(model.state_dict(), strict=True)
    twin.set_attn_implementation(attention)
    return twin


@pytest.mark.equality
@pytest.mark.parametrize("qk_norm", [False, True], ids=["llama", "qwen3"])
@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_and_gradients_are_those_of_the_stock_model(attention, side, qk_norm):
    ours = decoder(attention=attention, qk_norm=qk_norm)
    ids, mask = tokens(3, 12), padding_mask(side, 3, 12)
    logits, gradients = logits_and_gradients(ours, ids, mask)
    twin_logits, twin_gradients = logits_and_gradients(stock_twin(ours, attention=attention), ids, mask)
    torch.testing.assert_close(logits, twin_logits, **TOLERANCE)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, twin_gradients[name], **TOLERANCE, msg=name)


@pytest.mark.equality
def test_cached_logits_are_those_of_llama():
    ours = decoder()
    ids, twin = tokens(2, 9), stock_twin(ours)
    with torch.no_grad():
        mine, theirs = ours(ids[:, :5]), twin(ids[:, :5])
        for step in range(5, 9):
            mine = ours(ids[:, step : step + 1], past_key_values=mine.past_key_values)
            theirs = twin(ids[:, step : step + 1], past_key_values=theirs.past_key_values)
            torch.testing.assert_close(mine.logits, theirs.logits, **TOLERANCE)
        torch.testing.assert_close(mine.logits[:, -1], ours(ids).logits[:, -1], **TOLERANCE)


def gpt2_names(num_layers: int) -> dict[str, tuple[str, ...]]:
    """GPT-2's parameter -> ours, several where it fuses them; its projections are stored transposed."""
    names = {"wte.weight": ("embed_tokens.weight",), "wpe.weight": ("embed_positions.weight",)}
    for kind in ("weight", "bias"):
        names[f"ln_f.{kind}"] = (f"norm.{kind}",)
        for i in range(num_layers):
            layer, attention = f"layers.{i}", f"layers.{i}.self_attn"
            names |= {
                f"h.{i}.ln_1.{kind}": (f"{layer}.input_layernorm.{kind}",),
                f"h.{i}.ln_2.{kind}": (f"{layer}.post_attention_layernorm.{kind}",),
                f"h.{i}.attn.c_attn.{kind}": tuple(f"{attention}.{part}_proj.{kind}" for part in "qkv"),
                f"h.{i}.attn.c_proj.{kind}": (f"{attention}.o_proj.{kind}",),
                f"h.{i}.mlp.c_fc.{kind}": (f"{layer}.mlp.up_proj.{kind}",),
                f"h.{i}.mlp.c_proj.{kind}": (f"{layer}.mlp.down_proj.{kind}",),
            }
    return names


def as_gpt2(ours: dict[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    theirs = {}
    for name, parts in gpt2_names(num_layers).items():
        joined = torch.cat([ours[f"model.{part}"] for part in parts])
        theirs[f"transformer.{name}"] = joined.T if ".c_" in name and joined.ndim == 2 else joined
    return theirs


@pytest.mark.equality
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_with_gpt2s_parts_logits_and_gradients_are_gpt2s(side):
    ours = decoder(**GPT2_PARTS, max_position_embeddings=16)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    twin = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB_SIZE, attn_pdrop=0.0, **sizes)).eval()
    twin.transformer.load_state_dict(
        {name.removeprefix("transformer."): weight for name, weight in as_gpt2(ours.state_dict(), 2).items()}
    )
    ids, mask = tokens(3, 12), padding_mask(side, 3, 12)
    positions = None if mask is None else (mask.cumsum(-1) - 1).clamp(min=0)
    logits, gradients = logits_and_gradients(ours, ids, mask)  # finds the positions by itself
    twin_logits, twin_gradients = logits_and_gradients(twin, ids, mask, position_ids=positions)
    torch.testing.assert_close(logits, twin_logits, **TOLERANCE)
    for name, gradient in as_gpt2(gradients, 2).items():
        torch.testing.assert_close(gradient, twin_gradients[name], **TOLERANCE, msg=name)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_sliding_window_sees_exactly_its_last_tokens(attention):
    ids, length = tokens(2, 8), 8
    query, key = torch.arange(length)[:, None], torch.arange(length)[None]
    by_hand = ((key <= query) & (key > query - 3)).expand(2, 1, length, length)
    if attention == "eager":
        by_hand = torch.zeros(by_hand.shape).masked_fill(~by_hand, torch.finfo(torch.float32).min)
    sliding = decoder(attention=attention, layer_types=["sliding_attention"], sliding_window=3)
    full = decoder(attention=attention)
    torch.testing.assert_close(sliding(ids).logits, full(ids, attention_mask=by_hand).logits, **TOLERANCE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_window_of_one_sees_only_itself(attention):
    model = decoder(attention=attention, layer_types=["sliding_attention"], sliding_window=1)
    ids = tokens(1, 7)
    alone = torch.cat([model(token, position_ids=torch.zeros(1, 1).long()).logits for token in ids.split(1, dim=1)], 1)
    torch.testing.assert_close(model(ids).logits, alone, **TOLERANCE)


@pytest.mark.parametrize("use_cache", [None, True, False])
@pytest.mark.parametrize("is_padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("parts", [{}, GPT2_PARTS, SLIDING], ids=["rope", "learned", "sliding"])
def test_a_packed_document_has_the_logits_it_has_alone(parts, attention, is_padded, use_cache):
    model = decoder(attention=attention, **parts)
    ids = tokens(2, 12)
    lengths = ((3, 1, 6), (5, 5))  # two tokens of each row are left over: padding, or a last document
    positions = torch.stack([torch.cat([torch.arange(n) for n in (*row, 2)]) for row in lengths])
    mask = (torch.arange(12) < 10).long().expand(2, 12) if is_padded else None
    packed = model(ids, attention_mask=mask, position_ids=positions, use_cache=use_cache)
    assert packed.past_key_values is None
    for row, row_lengths in enumerate(lengths):
        start = 0
        for length in row_lengths if is_padded else (*row_lengths, 2):
            alone = model(ids[row : row + 1, start : start + length]).logits[0]
            torch.testing.assert_close(packed.logits[row, start : start + length], alone, **TOLERANCE)
            start += length


def test_padding_joins_no_packed_document_not_even_one_that_goes_on_from_another_row():
    model, ids = decoder(), tokens(1, 6)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])  # padding, then the rest of a document, then a whole one
    packed = model(ids, attention_mask=torch.tensor([[0, 1, 1, 1, 1, 1]]), position_ids=positions).logits
    rest = model(ids[:, 1:3], position_ids=positions[:, 1:3]).logits
    torch.testing.assert_close(packed[:, 1:3], rest, **TOLERANCE)
    torch.testing.assert_close(packed[:, 3:], model(ids[:, 3:]).logits, **TOLERANCE)


def test_packed_rows_are_refused_where_they_would_leak():
    model, positions = decoder(), torch.tensor([[0, 1, 2, 0, 1]] * 2)
    with pytest.raises(ValueError, match="packed rows cannot use past_key_values"):
        model(tokens(2, 5), position_ids=positions, past_key_values=DynamicCache(config=model.config))
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match="one flattened row"):
        model(tokens(2, 5), position_ids=positions)


def test_left_padding_with_positions_is_not_taken_for_packing():
    model, ids, mask = decoder(), tokens(3, 6), padding_mask("left", 3, 6)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    output = model(ids, attention_mask=mask, position_ids=positions)
    assert output.past_key_values.get_seq_length() == 6
    torch.testing.assert_close(output.logits[2, 2:], model(ids[2:, 2:]).logits[0], **TOLERANCE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("parts", [{}, GPT2_PARTS, SLIDING], ids=["rope", "learned", "sliding"])
def test_a_token_never_sees_the_future(parts, attention):
    model, ids = decoder(attention=attention, **parts), tokens(2, 10)
    changed = ids.clone()
    changed[:, 6:] = (changed[:, 6:] % (VOCAB_SIZE - 1)) + 1
    before, after = model(ids).logits, model(changed).logits
    torch.testing.assert_close(before[:, :6], after[:, :6], **TOLERANCE)
    assert (before[:, 6:] - after[:, 6:]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("parts", [{}, GPT2_PARTS, SLIDING], ids=["rope", "learned", "sliding"])
def test_generation_is_the_same_with_and_without_a_cache_padded_and_alone(parts):
    model, ids, mask = decoder(**parts), tokens(3, 7), padding_mask("left", 3, 7)
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    cached = model.generate(ids, attention_mask=mask, **settings)
    uncached = model.generate(ids, attention_mask=mask, use_cache=False, **settings)
    static = model.generate(ids, attention_mask=mask, cache_implementation="static", **settings)
    assert cached.tolist() == uncached.tolist() == static.tolist()
    for row in range(3):
        alone = model.generate(ids[row : row + 1, row:], **settings)
        assert alone[0].tolist() == cached[row, row:].tolist()


def test_grouped_query_attention_is_plain_attention_with_repeated_keys_and_values():
    grouped, plain = decoder(num_key_value_heads=2), decoder(num_key_value_heads=None)
    assert plain.config.num_key_value_heads == 4
    weights = grouped.state_dict()
    for name, weight in weights.items():
        if "k_proj" in name or "v_proj" in name:
            weights[name] = weight.view(2, 8, -1).repeat_interleave(2, dim=0).view(32, -1)
    plain.load_state_dict(weights)
    torch.testing.assert_close(grouped(tokens(2, 9)).logits, plain(tokens(2, 9)).logits, **TOLERANCE)


@pytest.mark.parametrize("use_cache", [None, True])
def test_activation_checkpointing_leaves_the_gradients_alone(use_cache):
    model, checkpointed = decoder().train(), decoder().train()
    checkpointed.activation_checkpointing_enable()
    ids, gradients = tokens(2, 9), []
    for each in (model, checkpointed):
        each(ids, labels=ids, use_cache=use_cache).loss.backward()
        gradients.append([parameter.grad for parameter in each.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], atol=0, rtol=0)
    assert all(layer.gradient_checkpointing for layer in checkpointed.model.layers)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("field", ["dropout", "attention_dropout"])
def test_dropout_is_active_in_training_only(field, attention):
    model, ids = decoder(attention=attention, **{field: 0.5}), tokens(2, 9)
    torch.testing.assert_close(model(ids).logits, decoder(attention=attention)(ids).logits, **TOLERANCE)
    model.train()
    assert (model(ids).logits - model(ids).logits).abs().max() > 1e-2


def test_dropout_reaches_the_embeddings_and_both_halves_of_a_block():
    model, seen = decoder(dropout=0.99).train(), {}
    block = model.model.layers[0]
    block.register_forward_hook(lambda _, args, output: seen.update(before=args[0], after=output))
    model(tokens(4, 16))
    assert (seen["before"] == 0).float().mean() > 0.9
    block.train()(torch.randn(4, 16, 32), position_embeddings=(torch.ones(8), torch.zeros(8)))
    assert (seen["after"] == seen["before"]).float().mean() > 0.9


def test_a_cache_is_made_by_default_in_evaluation_only():
    model = decoder()
    assert model(tokens(1, 4)).past_key_values.get_seq_length() == 4
    assert model.train()(tokens(1, 4)).past_key_values is None


def test_logits_to_keep_hidden_states_and_attentions_are_what_was_asked_for():
    model, ids = decoder(attention="eager"), tokens(2, 9)
    output = model(ids, logits_to_keep=2, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(output.logits, model(ids).logits[:, -2:], **TOLERANCE)
    assert [state.shape for state in output.hidden_states] == [(2, 9, 32)] * 3
    assert [weights.shape for weights in output.attentions] == [(2, 4, 9, 9)] * 2


def test_learned_positions_end_with_a_sentence():
    with pytest.raises(ValueError, match="12 tokens, but max_position_embeddings is 8"):
        decoder(**GPT2_PARTS, max_position_embeddings=8)(tokens(1, 12))
