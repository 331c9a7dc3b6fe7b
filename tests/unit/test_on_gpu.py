"""What a GPU has to give: the numbers of the CPU, runs that repeat and resume to the bit, the chain."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import finetune_jobs
import pytest
import tiny_ppo
import torch
from training_jobs import (
    MODELS,
    SIZES,
    VOCAB,
    causal_lm_folder,
    context,
    random_tokens,
    run,
    tokenizer_folder,
    weights_digest,
)

from custom_models import DecoderConfig
from custom_models.moe import Experts
from custom_models.stock import to_stock
from pipelines.errors import Stopped
from pipelines.recipe.model import STYLE_ARCHITECTURES, ModelConfig
from pipelines.stages.base import LaunchSettings, StageContext
from pipelines.training.exact import ExactTrainerMixin
from pipelines.training.generation import sample
from pipelines.training.inputs import causal_lm, fresh_model, tokens_of
from pipelines.training.sentinel import read_metrics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
ROOT = Path(__file__).parents[2]
FORMATS = {"pretrain": "text", "prefix_lm": "text", "masked_lm": "text", "span_corruption": "text"}
FORMATS |= {"sft": "chat", "reward": "preference", "dpo": "preference"}
KINDS = [*FORMATS, "ppo", "classification", "seq2seq"]
GPU, CPU = (LaunchSettings(threads=1, device=device) for device in ("gpu", "cpu"))


def job(root: Path, kind: str, launch: LaunchSettings = GPU, *, dropout: float = 0.1, **fields: Any) -> StageContext:
    """A job in a folder of its own; jobs of one root read the same."""
    root.mkdir(exist_ok=True)
    if kind == "ppo":
        return placed(tiny_ppo.context(root, launch=launch, **fields), root, kind)
    if kind in ("classification", "seq2seq"):
        table = root / "table"
        if not table.exists():
            finetune_jobs.pairs(table) if kind == "seq2seq" else finetune_jobs.labelled(table, "single")
        base = finetune_jobs.base_folder(
            root, "encoder_decoder" if kind == "seq2seq" else "encoder", **{"dropout": dropout}
        )
        return placed(finetune_jobs.context(root, table, model=base, task=kind, launch=launch, **fields), root, kind)
    table = root / "words"
    if not table.exists():
        random_tokens(table, FORMATS[kind])
    ctx = context(root, kind, table, launch=launch, **fields)
    if ctx.job.model is not None:
        ctx = replace(
            ctx, job=ctx.job.model_copy(update={"model": ctx.job.model.model_copy(update={"dropout": dropout})})
        )
    return placed(ctx, root, kind)


def placed(ctx: StageContext, root: Path, kind: str) -> StageContext:
    ctx = replace(ctx, workdir=root / f"job-{kind}-{len(list(root.glob('job-*')))}")
    for folder in (ctx.output, ctx.checkpoints, ctx.record):
        folder.mkdir(parents=True)
    return ctx


def losses(ctx: StageContext) -> list[float]:
    return [line["loss"] for line in read_metrics(ctx.record / "metrics.jsonl")]


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_and_resumed_it_ends_with_the_same_bits_in_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    fields = {} if kind == "ppo" else {"duration": "8 steps"}
    whole, halved = (job(tmp_path, kind, mixed_precision="bf16", **fields) for _ in range(2))
    torch.cuda.reset_peak_memory_stats()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*deterministic.*")
        run(whole)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.cuda.max_memory_allocated() > 0  # it ran there
    original = ExactTrainerMixin._get_grad_norm

    def stopping(self: Any, model: Any, grad_norm: Any = None) -> Any:
        norm = original(self, model, grad_norm)
        self._stop = self.state.global_step == 3
        return norm

    with monkeypatch.context() as patch:
        patch.setattr(ExactTrainerMixin, "_get_grad_norm", stopping)
        with pytest.raises(Stopped):
            run(halved)
    run(halved)
    assert losses(whole) == losses(halved)
    assert weights_digest(whole) == weights_digest(halved)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ppo"])
def test_in_float32_its_losses_are_those_of_the_cpu(tmp_path: Path, kind: str) -> None:
    """Without dropout, whose numbers each device draws for itself."""
    runs = [job(tmp_path, kind, launch, dropout=0.0, learning_rate=1e-4) for launch in (GPU, CPU)]
    if kind not in MODELS and kind not in ("classification", "seq2seq"):
        shape = ModelConfig(**(SIZES | {"dropout": 0.0}))
        for number, ctx in enumerate(runs):
            folder = causal_lm_folder(tmp_path / f"base-{number}", shape)
            runs[number] = replace(ctx, inputs={**ctx.inputs, "model": folder})
    for ctx in runs:
        run(ctx)
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), rel=2e-4)


def test_a_mixture_of_experts_resumes_to_the_same_bits(tmp_path: Path) -> None:
    shape = ModelConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    runs = []
    for _ in range(2):
        ctx = job(tmp_path, "pretrain", mixed_precision="bf16", duration="8 steps")
        runs.append(replace(ctx, job=ctx.job.model_copy(update={"model": shape})))
        run(runs[-1])
    assert losses(runs[0]) == losses(runs[1]) and losses(runs[0])[-1] < losses(runs[0])[0]
    assert weights_digest(runs[0]) == weights_digest(runs[1])


@pytest.mark.parametrize("feed_forward", ["swiglu", "gelu"])
def test_grouped_products_are_those_of_each_expert_also_where_one_has_no_token(feed_forward: str) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2}
    experts = Experts(DecoderConfig(feed_forward=feed_forward, **sizes)).cuda()
    for weight in experts.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    states = torch.randn(300, 64, device="cuda")
    chosen = torch.rand(300, 7, device="cuda").topk(2).indices  # nobody chooses the last
    weights = torch.rand(300, 2, device="cuda")
    found = []
    for enabled in (False, True):
        leaf = states.clone().requires_grad_()
        experts.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=enabled):
            output = experts(leaf, weights, chosen)
        output.float().square().mean().backward()
        found.append([output.float().detach(), leaf.grad, *(one.grad.clone() for one in experts.parameters())])
    for expected, grouped in zip(*found, strict=True):
        assert float((grouped - expected).abs().max()) < 0.03 * float(expected.abs().max())
        if grouped.ndim == 3:
            assert not grouped[7].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("style", ["llama", "gpt2", "bert", "t5"])
def test_a_style_is_the_stock_class_there_too(tmp_path: Path, style: str, dtype: torch.dtype) -> None:
    tokens = tokens_of(tokenizer_folder(tmp_path / "tokenizer"))
    shape = ModelConfig(
        architecture=STYLE_ARCHITECTURES.get(style, "decoder"), style=style, **(SIZES | {"dropout": 0.0})
    )
    ours = fresh_model(shape, tokens, seed=1)
    theirs = to_stock(ours)
    generator = torch.Generator().manual_seed(2)
    inputs = {"input_ids": torch.randint(4, VOCAB, (3, 24), generator=generator)}
    inputs["attention_mask"] = (torch.arange(24) < torch.tensor([24, 17, 5])[:, None]).long()
    if ours.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.randint(4, VOCAB, (3, 9), generator=generator)
    inputs = {name: part.cuda() for name, part in inputs.items()}
    with torch.no_grad():
        mine, other = (model.to("cuda", dtype).eval()(**inputs).logits.float() for model in (ours, theirs))
    seen = inputs["attention_mask"].bool() if not ours.config.is_encoder_decoder else slice(None)
    scale = other[seen].abs().max()
    bound = 1e-5 if dtype == torch.float32 else 3e-2
    assert float((mine[seen] - other[seen]).abs().max()) <= bound * float(scale)


def test_greedy_completions_are_those_of_the_cpu(tmp_path: Path) -> None:
    folder = causal_lm_folder(tmp_path / "base")
    model = causal_lm(folder, tokens_of(folder)).eval()
    ids = torch.randint(4, VOCAB, (5, 7), generator=torch.Generator().manual_seed(3))
    numbers = torch.zeros(5, 12)
    found = []
    for device in ("cpu", "cuda"):
        model.to(device)
        prompt, is_token = ids.to(device), torch.ones_like(ids).bool().to(device)
        parts = sample(model, prompt, is_token, numbers, stop_ids=(1,), pad_id=2, temperature=0.0)
        found.append([part.cpu().tolist() for part in parts])
    assert found[0] == found[1]


@pytest.mark.slow
def test_the_whole_chain_runs_on_one_gpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines", "run", "recipes/demo.yaml", "--store", str(tmp_path)]
    told = subprocess.run(
        [*command, "--launch", "gpu-1"], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True
    )
    assert told.returncode == 0, told.stdout[-3000:] + told.stderr[-3000:]
    manifests = [json.loads(path.read_text()) for path in tmp_path.glob("artifacts/*/manifest.json")]
    devices = {one["launch"]["device"] for one in manifests if "launch" in one}
    assert manifests and devices <= {"gpu", "cpu"}
