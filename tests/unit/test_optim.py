"""Learning rates step by step, parameter groups, and both optimizers."""

import math

import pytest
import torch
import transformers
from torch import nn

from custom_models import (
    DecoderConfig,
    DecoderForCausalLM,
    DecoderForSequenceClassification,
    EncoderConfig,
    EncoderDecoderConfig,
    EncoderDecoderForConditionalGeneration,
    EncoderForMaskedLM,
    EncoderForSequenceClassification,
)
from pipelines.errors import MachineError
from pipelines.training.optim import (
    Muon,
    OptimSettings,
    build_optimizer,
    build_scheduler,
    lr_at,
    lr_factor,
    orthogonal,
    parameter_groups,
)

TOTAL, WARMUP = 40, 8
CLOSED_FORMS = {
    "constant": lambda t: 1.0,
    "linear": lambda t: 0.1 + 0.9 * (TOTAL - t) / (TOTAL - WARMUP),
    "cosine": lambda t: 0.1 + 0.9 * (1 + math.cos(math.pi * (t - WARMUP) / (TOTAL - WARMUP))) / 2,
    "inverse_sqrt": lambda t: math.sqrt(WARMUP / t),
    "wsd": lambda t: 1.0 if t <= TOTAL - 10 else 0.1 + 0.9 * (TOTAL - t) / 10,
}


def settings(kind: str, **fields: float) -> OptimSettings:
    floor = {} if kind in ("constant", "inverse_sqrt") else {"min_lr_rate": 0.1}
    return OptimSettings(lr_scheduler_type=kind, learning_rate=2.0, **({"warmup_steps": WARMUP, **floor} | fields))


@pytest.mark.parametrize("kind", CLOSED_FORMS)
def test_the_learning_rate_is_the_closed_form_at_every_step(kind: str) -> None:
    chosen = settings(kind, **({"decay_steps": 10} if kind == "wsd" else {}))
    for step in range(TOTAL):
        wanted = step / WARMUP if step < WARMUP else CLOSED_FORMS[kind](step)
        assert lr_factor(step, chosen, TOTAL) == pytest.approx(wanted, abs=1e-12), step
        assert lr_at(step, chosen, TOTAL) == pytest.approx(2 * wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs", "arguments"),
    [
        ("linear", "linear", {}),
        ("cosine", "cosine", {}),
        ("inverse_sqrt", "inverse_sqrt", {}),
        ("constant", "constant_with_warmup", {}),
        ("wsd", "warmup_stable_decay", {"num_decay_steps": 10, "decay_type": "linear"}),
    ],
)
def test_schedules_are_those_that_transformers_has_by_these_names(ours: str, theirs: str, arguments: dict) -> None:
    parameter = nn.Parameter(torch.zeros(2, 2))
    reference = transformers.get_scheduler(
        theirs,
        torch.optim.SGD([parameter], lr=1.0),
        num_warmup_steps=WARMUP,
        num_training_steps=TOTAL,
        scheduler_specific_kwargs=arguments,
    )
    chosen = settings(ours, min_lr_rate=0.0, **({"decay_steps": 10} if ours == "wsd" else {}))
    for step in range(TOTAL):
        assert lr_factor(step, chosen, TOTAL) == pytest.approx(reference.lr_lambdas[0](step), abs=1e-6), step


def test_no_warmup_starts_at_the_peak_and_a_share_is_of_all_steps() -> None:
    assert lr_factor(0, OptimSettings(warmup_steps=0), 10) == 1.0
    assert [lr_factor(step, OptimSettings(warmup_steps=0.2), 10) for step in (0, 1, 2)] == [0.0, 0.5, 1.0]
    assert lr_factor(7, OptimSettings(warmup_steps=0.07), 100) == 1.0  # 0.07 * 100 is 7.000000000000001


def test_a_warmup_beyond_the_run_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    build_scheduler(optimizer, OptimSettings(warmup_steps=20), 20)
    assert not capsys.readouterr().out
    build_scheduler(optimizer, OptimSettings(warmup_steps=500), 20)
    assert "note: the warm-up takes 500 steps, and the run has 20" in capsys.readouterr().out


def test_a_run_that_would_never_have_a_learning_rate_is_refused() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with pytest.raises(MachineError, match="no step with a learning rate"):
        build_scheduler(optimizer, OptimSettings(warmup_steps=0.1), 1)
    for steps, total in ((0, 1), (5, 5), (9, 5)):  # a warm-up as long as the run, or longer
        build_scheduler(optimizer, OptimSettings(warmup_steps=steps, lr_scheduler_type="wsd"), total)
    wsd = OptimSettings(lr_scheduler_type="wsd")
    assert [lr_factor(step, wsd, 10) for step in (7, 8, 9)] == [1.0, 1.0, 0.5]


def tiny(**fields: object) -> DecoderConfig:
    values = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return DecoderConfig(**(values | fields))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "reward"])
def test_every_parameter_is_in_exactly_one_group(optimizer: str, tied: bool, kind: str) -> None:
    gpt2 = {"position_embedding": "learned", "norm": "layer_norm", "feed_forward": "gelu", "attention_bias": True}
    config = tiny(tie_word_embeddings=tied, **(gpt2 if kind == "gpt2" else {}), num_labels=1)
    model = (DecoderForSequenceClassification if kind == "reward" else DecoderForCausalLM)(config)
    made = build_optimizer(model, OptimSettings(optimizer=optimizer, weight_decay=0.1, learning_rate=1.0))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [names[id(parameter)] for group in made.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(names.values())
    for group in made.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["weight_decay"] == (0.0 if parameter.ndim < 2 else 0.1), name
            is_outside = any(part in name for part in ("embed", "lm_head", "score")) or parameter.ndim < 2
            if optimizer == "muon":
                assert ("momentum" in group) != is_outside, name
                assert group["lr"] == (0.15 if is_outside else 1.0), name


def test_a_parameter_that_is_left_out_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.training import optim

    model = DecoderForCausalLM(tiny())
    whole = parameter_groups(model)
    monkeypatch.setattr(
        optim, "parameter_groups", lambda _: optim.Groups(whole.hidden_matrices[1:], whole.other_decayed, [])
    )
    with pytest.raises(RuntimeError, match="exactly once"):
        build_optimizer(model, OptimSettings())


def test_one_schedule_drives_both_optimizers() -> None:
    model = DecoderForCausalLM(tiny())
    chosen = OptimSettings(
        optimizer="muon", learning_rate=1.0, adamw_learning_rate=0.5, lr_scheduler_type="linear", warmup_steps=2
    )
    optimizer = build_optimizer(model, chosen)
    scheduler = build_scheduler(optimizer, chosen, 4)
    seen = []
    for _ in range(4):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert seen == [[0.0] * 3, [0.5, 0.25, 0.25], [1.0, 0.5, 0.5], [0.5, 0.25, 0.25]]


def test_newton_schulz_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 16, 16), (2, 40, 12), (2, 12, 40)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape), 5))
        assert values.min() > 0.3 and values.max() < 1.3


def test_muon_in_a_batch_is_muon_one_by_one() -> None:
    torch.manual_seed(0)
    start = [torch.randn(8, 12) for _ in range(3)] + [torch.randn(12, 8)]
    gradients = [[torch.randn_like(weight) for weight in start] for _ in range(3)]
    together = [nn.Parameter(weight.clone()) for weight in start]
    optimizer = Muon(together, lr=0.1, weight_decay=0.5, momentum=0.9)
    alone = [weight.clone() for weight in start]
    momenta = [torch.zeros_like(weight) for weight in start]
    for step in gradients:
        for parameter, gradient in zip(together, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        for index, gradient in enumerate(step):
            momenta[index] = 0.9 * momenta[index] + 0.1 * gradient
            update = orthogonal((0.1 * gradient + 0.9 * momenta[index])[None], 5)[0]
            scale = max(1.0, gradient.shape[0] / gradient.shape[1]) ** 0.5
            alone[index] = alone[index] * (1 - 0.1 * 0.5) - 0.1 * scale * update
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_state_goes_through_a_checkpoint_unchanged() -> None:
    from pipelines.training.checkpoints import pack, unpack

    torch.manual_seed(0)
    models = [DecoderForCausalLM(tiny()) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    chosen = OptimSettings(optimizer="muon", learning_rate=0.1, weight_decay=0.1)
    first, second = (build_optimizer(model, chosen) for model in models)
    ids = torch.arange(16).reshape(2, 8)
    for turn in range(4):
        if turn == 2:
            models[1].load_state_dict(models[0].state_dict())
            tensors: dict[str, torch.Tensor] = {}
            tree = pack(first.state_dict(), tensors)
            second.load_state_dict(unpack(tree, tensors))
        for model, optimizer in zip(models, (first, second), strict=True):
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


BERT = {"position_embedding": "learned", "norm": "layer_norm", "attention_bias": True, "mlp_bias": True}
BERT |= {"type_vocab_size": 2, "embedding_norm": True, "head_transform": True, "head_bias": True, "pooler": True}
T5 = {"position_embedding": "relative_bias", "share_embeddings": False, "tie_word_embeddings": False}


@pytest.mark.parametrize(
    ("model_class", "config_class", "fields", "outside"),
    [
        (EncoderForMaskedLM, EncoderConfig, BERT, {"embed_tokens", "embed_positions", "embed_segments", "dense"}),
        (
            EncoderForSequenceClassification,
            EncoderConfig,
            BERT,
            {"embed_tokens", "embed_positions", "embed_segments", "dense", "score"},
        ),
        (
            EncoderDecoderForConditionalGeneration,
            EncoderDecoderConfig,
            T5,
            {"embed_tokens", "relative_attention_bias", "lm_head"},
        ),
    ],
)
def test_muon_has_the_matrices_inside_blocks_and_nothing_else(
    model_class: type, config_class: type, fields: dict, outside: set[str]
) -> None:
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = model_class(config_class(**sizes, **fields))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model)
    hidden, other, plain = (
        [names[id(parameter)] for parameter in group]
        for group in (groups.hidden_matrices, groups.other_decayed, groups.not_decayed)
    )
    in_blocks = [name for name, weight in model.named_parameters() if ".layers." in name and weight.ndim == 2]
    assert sorted(hidden) == sorted(in_blocks) and hidden
    assert {name.split(".")[-2] for name in other} == outside
    assert all(name.endswith(".bias") or "norm" in name for name in plain)
    assert sorted(hidden + other + plain) == sorted(names.values())
