"""A mixture of experts means what Mixtral means, keeps its books without padding, and trains every expert."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from custom_models import DecoderConfig, DecoderForCausalLM
from custom_models.moe import Experts, Router

torch.set_num_threads(1)
VOCAB_SIZE = 97
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}
SPARSE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "router_aux_loss_coef": 0.5}


def decoder(**changes) -> DecoderForCausalLM:
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = {"vocab_size": VOCAB_SIZE, "initializer_range": 0.2, **small, **SPARSE, **changes}
    return DecoderForCausalLM(DecoderConfig(**config)).eval()


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(1, VOCAB_SIZE, (rows, length), generator=torch.Generator().manual_seed(1))


def mixtral(ours: DecoderForCausalLM) -> MixtralForCausalLM:
    config = ours.config
    names = "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads tie_word_embeddings"
    same = {name: getattr(config, name) for name in (*names.split(), "num_experts_per_tok", "head_dim")}
    twin = MixtralForCausalLM(
        MixtralConfig(
            **same,
            intermediate_size=config.moe_intermediate_size,
            num_local_experts=config.num_experts,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            router_aux_loss_coef=config.router_aux_loss_coef,
            sliding_window=None,
        )
    ).eval()
    weights = {name.replace("mlp.router", "mlp.gate"): weight for name, weight in ours.state_dict().items()}
    for layer in range(config.num_hidden_layers):
        experts = f"model.layers.{layer}.mlp.experts"
        both = [weights.pop(f"{experts}.{part}_proj") for part in ("gate", "up")]
        weights[f"{experts}.gate_up_proj"] = torch.cat(both, dim=1)
    twin.load_state_dict(weights)
    return twin


@pytest.mark.equality
@pytest.mark.parametrize("padded", [False, True])
def test_logits_and_gradients_are_mixtrals(padded):
    ours = decoder(router_aux_loss_coef=0.0)
    twin, ids = mixtral(ours), tokens(2, 12)
    mask = torch.ones(2, 12).long()
    mask[1, 9:] = 1 - int(padded)
    labels, is_token = ids.masked_fill(mask == 0, -100), mask.bool()
    mine, theirs = (model(ids, attention_mask=mask, labels=labels) for model in (ours, twin))
    torch.testing.assert_close(mine.logits[is_token], theirs.logits[is_token], **TOLERANCE)
    mine.loss.backward()
    theirs.loss.backward()
    for ours_layer, their_layer in zip(ours.model.layers, twin.model.layers, strict=True):
        experts, others = ours_layer.mlp.experts, their_layer.mlp.experts
        fused = torch.cat([experts.gate_proj.grad, experts.up_proj.grad], dim=1)
        torch.testing.assert_close(fused, others.gate_up_proj.grad, **TOLERANCE)
        torch.testing.assert_close(experts.down_proj.grad, others.down_proj.grad, **TOLERANCE)
        torch.testing.assert_close(ours_layer.mlp.router.weight.grad, their_layer.mlp.gate.weight.grad, **TOLERANCE)


@pytest.mark.equality
@pytest.mark.parametrize("num_padded", [0, 5])
def test_one_rows_aux_loss_is_mixtrals_and_padding_does_not_count(num_padded):
    ours, ids = decoder(num_hidden_layers=1), tokens(1, 12)
    mask = (torch.arange(12) < 12 - num_padded).long()[None]
    mine = ours(ids, attention_mask=mask, output_router_logits=True)
    theirs = mixtral(ours)(ids, attention_mask=mask, output_router_logits=True)
    torch.testing.assert_close(mine.aux_loss, 0.5 * theirs.aux_loss, **TOLERANCE)
    assert mine.num_tokens == 12 - num_padded and mine.expert_tokens.sum() == 2 * (12 - num_padded)


@pytest.mark.parametrize("told_by", ["attention_mask", "pad_token_id"])
def test_aux_loss_is_the_mean_over_tokens_of_rows_and_layers(told_by):
    model, ids = decoder(pad_token_id=0), tokens(3, 12)
    lengths = torch.tensor([12, 7, 3])
    mask = (torch.arange(12) < lengths[:, None]).long()
    ids = ids.masked_fill(mask == 0, 0)
    output = model(ids, attention_mask=mask if told_by == "attention_mask" else None, output_router_logits=True)
    expected = 0.0
    for row, length in enumerate(lengths.tolist()):
        layers = [logits[row, :length] for logits in output.router_logits]
        losses = [load_balancing_loss_func((logits,), num_experts=4, top_k=2) for logits in layers]
        expected += 0.5 * sum(losses) / len(losses) * length / lengths.sum()
    torch.testing.assert_close(output.aux_loss, expected, **TOLERANCE)
    assert output.num_tokens == 22


def test_the_z_loss_is_the_mean_square_of_the_log_partition():
    model, ids = decoder(router_aux_loss_coef=0.0, router_z_loss_coef=2.0), tokens(2, 6)
    output = model(ids, output_router_logits=True)
    expected = 2 * torch.stack(output.router_logits).exp().sum(-1).log().square().mean()
    torch.testing.assert_close(output.aux_loss, expected, **TOLERANCE)


def test_balance_costs_least_and_counts_add_up():
    model, ids = decoder(), tokens(2, 12)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.mlp.router.weight)  # even probabilities: the loss is coefficient times choices
    output = model(ids, output_router_logits=True)
    torch.testing.assert_close(output.aux_loss, torch.tensor(0.5 * 2), **TOLERANCE)
    assert output.expert_tokens.sum(dim=1).tolist() == [48, 48]


def test_the_loss_has_the_aux_loss_in_it_and_evaluation_has_neither():
    model, ids = decoder(), tokens(2, 12)
    plain = model(ids, labels=ids)
    assert "aux_loss" not in plain
    asked = model(ids, labels=ids, output_router_logits=True)
    torch.testing.assert_close(asked.loss, plain.loss + asked.aux_loss)
    assert model.train()(ids, labels=ids).aux_loss == asked.aux_loss


@pytest.mark.parametrize("feed_forward", ["swiglu", "geglu", "gelu", "relu", "relu2"])
@pytest.mark.parametrize(("chosen", "is_normed"), [(1, False), (2, True), (3, False), (4, True)])
def test_an_expert_is_a_feed_forward_of_the_configured_kind(chosen, is_normed, feed_forward):
    parts = {"feed_forward": feed_forward, "num_experts_per_tok": chosen, "norm_topk_prob": is_normed}
    mlp = decoder(**parts, num_shared_experts=2).model.layers[0].mlp
    states = torch.randn(2, 5, 32)
    probabilities = F.linear(states, mlp.router.weight).softmax(-1)
    kept = probabilities * (probabilities >= probabilities.topk(chosen).values[..., -1:])
    weights = kept / kept.sum(-1, keepdim=True) if is_normed else kept
    expected = mlp.shared_experts(states)
    assert mlp.shared_experts.up_proj.out_features == 48
    for expert in range(4):
        up, act = F.linear(states, mlp.experts.up_proj[expert]), mlp.experts.activation
        gated = feed_forward in ("swiglu", "geglu")
        inner = act(F.linear(states, mlp.experts.gate_proj[expert])) * up if gated else act(up)
        expected = expected + weights[..., expert, None] * F.linear(inner, mlp.experts.down_proj[expert])
    torch.testing.assert_close(mlp(states), expected, **TOLERANCE)


def test_an_expert_without_tokens_has_a_gradient_of_nought():
    experts = Experts(DecoderConfig(hidden_size=8, num_attention_heads=2, **SPARSE))
    for weight in experts.parameters():
        torch.nn.init.normal_(weight)
    chosen = torch.tensor([[0, 2], [2, 0], [0, 2]])
    experts(torch.randn(3, 8), torch.ones(3, 2), chosen).sum().backward()
    for weight in experts.parameters():
        assert [bool(weight.grad[expert].any()) for expert in range(4)] == [True, False, True, False]


def test_activation_checkpointing_leaves_loss_and_gradients_alone():
    found, ids = [], tokens(2, 9)
    for checkpoints in (False, True):
        model = decoder(router_z_loss_coef=0.1).train()
        if checkpoints:
            model.activation_checkpointing_enable()
        output = model(ids, labels=ids)
        output.loss.backward()
        found.append([output.loss.detach(), output.expert_tokens, *(weight.grad for weight in model.parameters())])
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)


def test_generation_with_a_cache_is_that_without():
    model, ids = decoder(num_shared_experts=1), tokens(2, 6)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(
        model.generate(ids, use_cache=True, **settings), model.generate(ids, use_cache=False, **settings)
    )


def test_bf16_runs_and_is_close():
    model, ids = decoder().train(), tokens(2, 12)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(ids, labels=ids)
    output.loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())
    torch.testing.assert_close(output.loss, model(ids, labels=ids).loss, atol=0.1, rtol=0.0)


def test_a_saved_model_reloads_bit_for_bit(tmp_path):
    model, ids = decoder(num_shared_experts=1), tokens(2, 6)
    model.save_pretrained(tmp_path)
    again, report = DecoderForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(model(ids).logits, again.eval()(ids).logits)


def test_experts_and_router_start_like_every_other_weight():
    model = decoder()
    for module in model.modules():
        if isinstance(module, Experts | Router):
            assert all(0.18 < weight.std() < 0.22 for weight in module.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 4, "num_experts_per_tok": 5}, "num_experts_per_tok is 5 of num_experts 4"),
        ({"num_experts": 1, "num_experts_per_tok": 1}, "choose from two or more"),
        ({"num_experts": 4, "num_experts_per_tok": 1}, "no router learns from that"),
        ({"num_experts": 4, "mlp_bias": True}, "experts have no biases"),
        ({"num_shared_experts": 1}, "need num_experts"),
        ({"moe_intermediate_size": 8}, "need num_experts"),
        ({"num_experts": 4, "moe_intermediate_size": 0}, "moe_intermediate_size is 0"),
        ({"num_experts": 4, "router_aux_loss_coef": -1.0}, "router_aux_loss_coef is -1.0"),
    ],
)
def test_what_no_router_could_honour_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DecoderConfig(**changes)
