"""Training a mixture of experts: its losses are in the step however it is cut up, and every stage takes it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from training_jobs import BOS, EOS, MODEL, PAD, VOCAB, causal_lm_folder, context, random_tokens, run
from transformers import TrainingArguments

from custom_models import DecoderConfig, DecoderForCausalLM
from pipelines.data.collate import PackedCollator
from pipelines.plan.estimate import active_parameters, parameters
from pipelines.recipe.model import ModelConfig
from pipelines.training.exact import ARGUMENTS, Exact
from pipelines.training.losses import causal_lm_loss, causal_outputs_loss
from pipelines.training.optim import Muon, OptimSettings, build_optimizer, parameter_groups
from pipelines.training.sentinel import read_metrics
from pipelines.training.trainers import PretrainTrainer

SPARSE: dict[str, Any] = {"num_experts": 4, "moe_intermediate_size": 24, "router_aux_loss_coef": 0.5}


class Rows:
    """Packed rows of very different lengths."""

    def __init__(self, count: int):
        rng = np.random.default_rng(0)
        self.rows = [
            [np.array([BOS, *rng.integers(4, VOCAB, 3 + 5 * (i % 4)), EOS])] * (1 + i % 2) for i in range(count)
        ]
        self.lengths = np.array([sum(map(len, row)) for row in self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> list[np.ndarray]:
        return self.rows[row]


def model(**fields: Any) -> DecoderForCausalLM:
    torch.manual_seed(0)
    small = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return DecoderForCausalLM(DecoderConfig(**(small | SPARSE | fields), pad_token_id=PAD, initializer_range=0.2))


def trained(folder: Path, micro: int, **fields: Any) -> PretrainTrainer:
    made = PretrainTrainer(
        model=model(**fields),
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=3,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=8 // micro,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            **ARGUMENTS,
        ),
        rows=Rows(16),
        exact=Exact(
            seed=3, checkpoint_every=9, optim=OptimSettings(optimizer="muon", learning_rate=0.01), record=folder
        ),
        collator=PackedCollator(PAD),
        loss=causal_outputs_loss,
    )
    made.train()
    return made


def test_the_losses_of_the_router_are_those_of_the_step_however_it_is_cut_up(tmp_path: Path) -> None:
    whole, *others = (trained(tmp_path / str(micro), micro, router_z_loss_coef=0.1) for micro in (8, 2, 1))
    for other in others:
        for one, same in zip(whole.model.parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(one, same, atol=1e-5, rtol=0.0)
        lines = [read_metrics(Path(run.args.output_dir) / "metrics.jsonl") for run in (whole, other)]
        for one, same in zip(*lines, strict=True):
            for name in ("loss", "aux_loss", "expert_share_max", "expert_share_min"):
                assert one[name] == pytest.approx(same[name], abs=1e-5), name


def test_a_first_steps_numbers_are_those_by_hand(tmp_path: Path) -> None:
    made = trained(tmp_path, 4)
    batch = made.data_collator([made.rows[row] for row in made.rows_of_step(0).flatten()])
    labels = batch.pop("labels")
    output = model().train()(**batch)
    told = read_metrics(tmp_path / "metrics.jsonl")[0]
    num_targets = int((labels != -100).sum())
    aux_loss = output.aux_loss.item() * sum(made.rows.lengths[made.rows_of_step(0).flatten()]) / num_targets
    assert told["aux_loss"] == pytest.approx(aux_loss, abs=1e-5) and aux_loss > 0.9
    assert told["loss"] == pytest.approx(causal_lm_loss(output.logits, labels).item() + aux_loss, abs=1e-5)
    shares = output.expert_tokens / output.expert_tokens.sum(1, keepdim=True)
    assert told["expert_share_max"] == pytest.approx(float(shares.max(1).values.mean()), abs=1e-6)
    assert told["expert_share_min"] == pytest.approx(float(shares.min(1).values.mean()), abs=1e-6)


def test_a_dense_model_has_no_numbers_of_a_router(tmp_path: Path) -> None:
    trained(tmp_path, 8, num_experts=None, moe_intermediate_size=None)
    assert not {"aux_loss", "expert_share_max"} & set(read_metrics(tmp_path / "metrics.jsonl")[0])


def test_muon_turns_each_expert_by_itself() -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(3, 8, 4), torch.randn(3, 8, 4)
    stack = nn.Parameter(start.clone())
    alone = [nn.Parameter(matrix.clone()) for matrix in start]
    for each, part in ((stack, gradient), *zip(alone, gradient, strict=True)):
        each.grad = part.clone()
    for held in ([stack], alone):
        Muon(held, lr=0.1, weight_decay=0.5, momentum=0.9).step()
    torch.testing.assert_close(stack.detach(), torch.stack([matrix.detach() for matrix in alone]))


def test_experts_and_router_are_muons() -> None:
    net = model(num_shared_experts=1)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    muons = {names[id(parameter)] for parameter in parameter_groups(net).hidden_matrices}
    assert {f"model.layers.0.mlp.experts.{part}_proj" for part in ("gate", "up", "down")} <= muons
    assert {"model.layers.0.mlp.router.weight", "model.layers.0.mlp.shared_experts.up_proj.weight"} <= muons
    build_optimizer(net, OptimSettings(optimizer="muon"))  # holds all


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo"])
def test_later_stages_take_it_and_leave_its_settings(tmp_path: Path, kind: str) -> None:
    causal_lm_folder(tmp_path / "base", MODEL.model_copy(update=SPARSE))
    tables = random_tokens(tmp_path / "words", {"sft": "chat"}.get(kind, "preference"))
    ctx = context(tmp_path, kind, tables, duration="2 steps")
    run(ctx)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "base", ctx.output))
    assert after["router_aux_loss_coef"] == 0.5 and after["num_experts"] == 4
    assert set(after) - set(before) <= {"id2label", "label2id", "num_labels"}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_experts": 4},
        {"num_experts": 4, "num_shared_experts": 1, "moe_intermediate_size": 24, "feed_forward": "gelu"},
        {"num_experts": 4, "intermediate_size": 24},
        {"position_embedding": "relative_bias", "relative_attention_num_buckets": 8},
        {"position_embedding": "alibi", "tie_word_embeddings": False},
        {"position_embedding": "learned", "attention_output_gate": True},
    ],
)
def test_the_estimate_is_what_the_model_has(fields: dict[str, Any]) -> None:
    recipe = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, **fields)
    built = recipe.model_dump(exclude={"architecture", "style"}, exclude_none=True)
    net = DecoderForCausalLM(DecoderConfig(**built, vocab_size=VOCAB))
    norms = sum(parameter.numel() for parameter in net.parameters() if parameter.ndim < 2)
    assert parameters(recipe, VOCAB) == net.num_parameters() - norms
    experts = sum(parameter.numel() for parameter in net.parameters() if parameter.ndim == 3)
    assert active_parameters(recipe, VOCAB) == parameters(recipe, VOCAB) - experts // 2  # two of four
