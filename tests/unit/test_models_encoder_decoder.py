"""The encoder-decoder is T5, or the 2017 Transformer, where its parts are; padding, cache and beams work as they do."""

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

from custom_models import EncoderDecoderConfig, EncoderDecoderForConditionalGeneration

torch.set_num_threads(1)
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SPECIAL = {"bos_token_id": 3, "eos_token_id": 1, "pad_token_id": 0}
T5 = {
    "position_embedding": "relative_bias",
    "norm": "rms_norm",
    "norm_eps": 1e-6,
    "feed_forward": "relu",
    "intermediate_size": 48,
    "attention_scaling": 1.0,
    "scale_head": True,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
TRANSFORMER_2017 = {
    "position_embedding": "sinusoidal",
    "norm": "layer_norm",
    "norm_placement": "post",
    "feed_forward": "relu",
    "intermediate_size": 48,
    "attention_bias": True,
    "mlp_bias": True,
    "scale_embeddings": True,
}
KINDS = {
    "t5": T5,
    "2017": TRANSFORMER_2017,
    "llama": {"num_key_value_heads": 2, "qk_norm": True, "num_encoder_layers": 1, "share_embeddings": False},
    "sandwich, learned": {"position_embedding": "learned", "norm_placement": "sandwich", "attention_output_gate": True},
    "sliding, alibi, untied": {
        "position_embedding": "alibi",
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 3,
        "tie_word_embeddings": False,
    },
}
NAMES = {  # of T5's parameters, in the order of replacement
    "encoder.block": "model.encoder.layers",
    "decoder.block": "model.decoder.layers",
    "layer.0.SelfAttention.relative_attention_bias": "position_bias.relative_attention_bias",
    "layers.0.position_bias": "position_bias",
    "layer.0.SelfAttention.": "self_attn.",
    "layer.1.EncDecAttention.": "cross_attn.",
    "layer.0.layer_norm": "input_layernorm",
    "layer.2.layer_norm": "post_attention_layernorm",
    "layer.2.DenseReluDense": "mlp",
    "layer.1.DenseReluDense": "mlp",
    "DenseReluDense": "mlp",
    "attn.q.": "attn.q_proj.",
    "attn.k.": "attn.k_proj.",
    "attn.v.": "attn.v_proj.",
    "attn.o.": "attn.o_proj.",
    "wi_0": "gate_proj",
    "wi_1": "up_proj",
    "wi.": "up_proj.",
    "wo.": "down_proj.",
    "encoder.final_layer_norm": "model.encoder.norm",
    "decoder.final_layer_norm": "model.decoder.norm",
}


def t5_name(name: str) -> str:
    for old, new in NAMES.items():
        name = name.replace(old, new)
    if "layer.1.layer_norm" in name:  # before cross-attention in the decoder, before the feed-forward in the encoder
        norm = "pre_cross_layernorm" if "decoder" in name else "post_attention_layernorm"
        name = name.replace("layer.1.layer_norm", norm)
    for half in ("encoder", "decoder"):
        name = name.replace(f"{half}.embed_tokens", f"model.{half}.embed_tokens")
    return name


def randomised(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.2)
    return model


def model_of(*, attention: str = "sdpa", **changes) -> EncoderDecoderForConditionalGeneration:
    torch.manual_seed(0)
    settings = {**SMALL, **SPECIAL, "max_position_embeddings": 64, "initializer_range": 0.2, **changes}
    model = randomised(EncoderDecoderForConditionalGeneration(EncoderDecoderConfig(**settings))).eval()
    model.set_attn_implementation(attention)
    return model


def tokens(rows: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(4, 97, (rows, length), generator=torch.Generator().manual_seed(seed))


def padding(length: int, *lengths: int, left: bool = False) -> Tensor:
    place = torch.arange(length) if not left else torch.arange(length).flip(0)
    return (place < torch.tensor(lengths)[:, None]).long()


@pytest.mark.equality
@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
@pytest.mark.parametrize("side", [None, "right", "left"])
def test_with_t5s_parts_logits_and_gradients_are_t5s(side: str | None, feed_forward: str) -> None:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=97,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
        feed_forward_proj=feed_forward,
        decoder_start_token_id=0,
        initializer_factor=2.0,
    )
    theirs = randomised(T5ForConditionalGeneration(config)).eval()
    ours = model_of(**{**T5, "feed_forward": "relu" if feed_forward == "relu" else "geglu"})
    weights = {t5_name(name): w for name, w in theirs.state_dict().items() if name != "shared.weight"}
    ours.load_state_dict(weights, strict=True)
    source, target = tokens(3, 11), tokens(3, 7, seed=2)
    mask = torch.ones_like(source) if side is None else padding(11, 11, 6, 2, left=side == "left")
    labels = target.masked_fill(padding(7, 7, 4, 2) == 0, -100)
    # transformers' T5 scores with sdpa as with eager attention; its decoder's inputs come from the labels as ours do
    outputs = [model(input_ids=source, attention_mask=mask, labels=labels) for model in (ours, theirs)]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, **TOLERANCE)
    torch.testing.assert_close(outputs[0].loss, outputs[1].loss, **TOLERANCE)
    for output in outputs:
        output.loss.backward()
    found = {name: parameter.grad for name, parameter in ours.named_parameters()}
    for name, parameter in theirs.named_parameters():
        name = "model.encoder.embed_tokens.weight" if name == "shared.weight" else t5_name(name)
        torch.testing.assert_close(found[name], parameter.grad, **TOLERANCE, msg=name)


def torch_name(name: str) -> str:
    for old, new in {
        "self_attn.out_proj": "self_attn.o_proj",
        "multihead_attn.out_proj": "cross_attn.o_proj",
        "linear1": "mlp.up_proj",
        "linear2": "mlp.down_proj",
        "norm1": "post_attention_layernorm",
    }.items():
        name = name.replace(old, new)
    if "encoder" in name:
        return name.replace("norm2", "post_feedforward_layernorm")
    return name.replace("norm2", "post_cross_layernorm").replace("norm3", "post_feedforward_layernorm")


def torch_values(ours: dict[str, Tensor], name: str) -> Tensor:
    """What stands, under torch's name, for values of our parameters: weights, or their gradients."""
    found = f"model.{torch_name(name)}"
    if "in_proj" not in name:
        return ours[found]
    block, attention, kind = found.rsplit(".", 2)
    attention = "self_attn" if attention == "self_attn" else "cross_attn"
    return torch.cat([ours[f"{block}.{attention}.{one}_proj.{kind.rsplit('_', 1)[-1]}"] for one in "qkv"])


@pytest.mark.equality
@pytest.mark.parametrize("side", [None, "right", "left"])
def test_with_the_2017_transformers_parts_states_and_gradients_are_torchs(side: str | None) -> None:
    ours = model_of(**TRANSFORMER_2017)
    sizes = {"d_model": 32, "nhead": 4, "dim_feedforward": 48, "dropout": 0.0, "batch_first": True}
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**sizes), 2)
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**sizes), 2)
    theirs = nn.Transformer(**sizes, custom_encoder=encoder, custom_decoder=decoder)
    weights = ours.state_dict()
    for name, parameter in theirs.named_parameters():
        parameter.data.copy_(torch_values(weights, name))
    source, target = tokens(3, 9), tokens(3, 6, seed=2)
    mask = torch.ones_like(source) if side is None else padding(9, 9, 5, 2, left=side == "left")

    def embedded(ids: Tensor, positions: Tensor) -> Tensor:
        states = ours.model.encoder.embed_tokens(ids)
        return ours.model.encoder.embed(states, positions)[0]

    expected = theirs(
        embedded(source, (mask.cumsum(-1) - 1).clamp(min=0)),
        embedded(target, torch.arange(6)[None]),
        tgt_mask=torch.ones(6, 6, dtype=torch.bool).triu(1),
        src_key_padding_mask=mask == 0,
        memory_key_padding_mask=mask == 0,
    )
    found = ours.model(source, mask, decoder_input_ids=target).last_hidden_state
    torch.testing.assert_close(found, expected, **TOLERANCE)
    logits, table = ours(source, mask, decoder_input_ids=target).logits, ours.model.encoder.embed_tokens.weight
    torch.testing.assert_close(logits, expected @ table.T, **TOLERANCE)
    factors = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))  # a loss that sees every number
    (their_table,) = torch.autograd.grad((expected * factors).sum(), table, retain_graph=True)
    (expected * factors).sum().backward()
    ours.zero_grad()
    (found * factors).sum().backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    close = {"atol": 1e-5 * max(float(gradient.abs().max()) for gradient in gradients.values()), "rtol": 1e-5}
    torch.testing.assert_close(table.grad, their_table, **close)
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(torch_values(gradients, name), parameter.grad, **close, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_kernels_make_no_difference(kind: str) -> None:
    model, spelled = model_of(**KINDS[kind]), model_of(attention="eager", **KINDS[kind])
    source, target = tokens(3, 10), tokens(3, 6, seed=2)
    mask = padding(10, 10, 6, 3)
    logits = model(source, mask, decoder_input_ids=target).logits
    torch.testing.assert_close(spelled(source, mask, decoder_input_ids=target).logits, logits, **TOLERANCE)
    for row, length in enumerate(mask.sum(dim=1)):
        alone = model(source[row : row + 1, :length], decoder_input_ids=target[row : row + 1]).logits
        torch.testing.assert_close(logits[row], alone[0], **TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_cached_generation_is_generation_without(kind: str, num_beams: int) -> None:
    model, source, mask = model_of(**KINDS[kind]), tokens(3, 8), padding(8, 8, 5, 2)
    settings = {"max_new_tokens": 7, "num_beams": num_beams, "do_sample": False}
    cached = model.generate(source, attention_mask=mask, use_cache=True, **settings)
    plain = model.generate(source, attention_mask=mask, use_cache=False, **settings)
    assert torch.equal(cached, plain) and (cached[:, 0] == model.config.decoder_start_token_id).all()
    assert len({tuple(row) for row in cached.tolist()}) > 1, "the target depends on the source"


@pytest.mark.parametrize("kind", KINDS)
def test_logits_step_by_step_are_those_of_the_whole(kind: str) -> None:
    model, source, target = model_of(**KINDS[kind]), tokens(2, 8), tokens(2, 6, seed=2)
    whole = model(source, decoder_input_ids=target).logits
    cache, steps = None, []
    for step in range(6):
        outputs = model(source, decoder_input_ids=target[:, step : step + 1], past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        steps.append(outputs.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, **TOLERANCE)


def test_a_target_token_does_not_see_what_comes_after_it() -> None:
    model, source, target = model_of(), tokens(1, 5), tokens(1, 6, seed=2)
    changed = target.clone()
    changed[0, -1] = 5 + target[0, -1] % 90
    first, second = (model(source, decoder_input_ids=ids).logits for ids in (target, changed))
    assert torch.equal(first[:, :-1], second[:, :-1]) and not torch.allclose(first[:, -1], second[:, -1])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_embeddings_are_tied_in_as_many_places_as_asked(tmp_path, shared: bool, tied: bool) -> None:
    model = model_of(share_embeddings=shared, tie_word_embeddings=tied)
    matrices = (model.model.encoder.embed_tokens, model.model.decoder.embed_tokens, model.lm_head)
    assert len({id(matrix.weight) for matrix in matrices}) == 3 - shared - tied
    model.save_pretrained(tmp_path)
    reloaded, report = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    matrices = (reloaded.model.encoder.embed_tokens, reloaded.model.decoder.embed_tokens, reloaded.lm_head)
    assert len({id(matrix.weight) for matrix in matrices}) == 3 - shared - tied
    source, target = tokens(2, 5), tokens(2, 4, seed=2)
    logits = [one.eval()(source, decoder_input_ids=target).logits for one in (model, reloaded)]
    assert torch.equal(*logits)


def test_activation_checkpointing_changes_nothing() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = model_of(**T5).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(tokens(2, 6), labels=tokens(2, 5)).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)


def test_the_loss_is_normalised_by_what_it_is_given() -> None:
    model, source, labels = model_of(), tokens(2, 5), tokens(2, 4, seed=2)
    labels[0, 2:] = -100
    mean, total = model(source, labels=labels).loss, model(source, labels=labels, num_items_in_batch=1).loss
    torch.testing.assert_close(mean * 6, total, **TOLERANCE)
