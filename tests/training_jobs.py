"""Small training jobs with everything they read, for tests: a tokenizer of made-up words, tables, a tiny model."""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.data.tokens import TokenWriter
from pipelines.plan.jobs import Input, Job, JobConfig
from pipelines.recipe.model import ModelConfig
from pipelines.recipe.stages import DpoStage, PretrainStage, RewardStage, SftStage
from pipelines.stages.base import LaunchSettings, StageContext, load_stage
from pipelines.store import durable

torch.set_num_threads(1)  # tiny models on shared cores: a second thread only waits

VOCAB, BOS, EOS, PAD, END = 96, 0, 1, 2, 3
FORMATS = {"pretrain": "text", "sft": "chat", "reward": "preference", "dpo": "preference"}
FORMATS |= {"prefix_lm": "text", "masked_lm": "text", "span_corruption": "text"}
"""Kinds of stages, and objectives of pretrain -> format of their data."""
CONFIGS = {"pretrain": PretrainStage, "sft": SftStage, "reward": RewardStage, "dpo": DpoStage}
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"max_position_embeddings": 64, "dropout": 0.1}
MODEL = ModelConfig(**SIZES)
MODELS = {
    "pretrain": MODEL,
    "prefix_lm": MODEL.model_copy(),
    "masked_lm": ModelConfig(architecture="encoder", style="bert", **SIZES),
    "span_corruption": ModelConfig(architecture="encoder_decoder", style="t5", **SIZES),
}
"""By objective; pretrain is causal_lm."""
SENTINELS = 8
EXTRA = ("<mask>", *(f"<extra_id_{number}>" for number in range(SENTINELS)))


def tokenizer_folder(folder: Path, extra: Sequence[str] = ()) -> Path:
    """Word-level, but with the files of a tokenizer's artifact. `extra` is EXTRA for a mask and sentinels."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<|bos|>", "<|eos|>", "<|pad|>", "<|end|>"]
    vocab = {name: number for number, name in enumerate(names)} | {f"w{i}": i for i in range(4, VOCAB)}
    vocab |= {token: VOCAB + number for number, token in enumerate(extra)}
    words = Tokenizer(models.WordLevel(vocab, unk_token="w4"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|pad|>"
    )
    if extra:
        fast.add_special_tokens({"mask_token": extra[0], "extra_special_tokens": list(extra[1:])})
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}"
    fast.save_pretrained(folder)
    special = {"mask_id": VOCAB, "sentinel_ids": list(range(VOCAB + 1, len(vocab)))} if extra else {}
    info = {"vocab_size": len(vocab), "bos_id": BOS, "eos_id": EOS, "pad_id": PAD, "stop_ids": [EOS, END]}
    (folder / "info.json").write_text(json.dumps({**info, **special, "end_of_turn_id": END, "add_bos_token": True}))
    return folder


def random_row(kind: str, rng: np.random.Generator, low: int = 4, high: int = 20) -> dict[str, Any]:
    words = lambda: rng.integers(4, VOCAB, rng.integers(low, high)).tolist()  # noqa: E731
    if kind == "text":
        ids = words()
        return {"input_ids": [BOS, *ids, EOS], "num_bytes": 3 * len(ids)}
    prompt = [BOS, *words(), END]
    if kind == "chat":
        answer = [*words(), END]
        mask = [0] * len(prompt) + [1] * len(answer)
        return {"input_ids": prompt + answer, "assistant_mask": mask, "num_bytes": 3 * len(mask)}
    # The chosen side has the small words, so that there is something to learn.
    chosen, rejected = (
        [*rng.integers(first, last, rng.integers(low, high)).tolist(), END] for first, last in ((4, 50), (50, VOCAB))
    )
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def tokens_folder(folder: Path, kind: str, train: list[dict[str, Any]], holdout: list[dict[str, Any]] = ()) -> Path:
    folder.mkdir(parents=True)
    writer = TokenWriter(folder, format=kind, vocab_size=VOCAB)
    for split, rows in (("train", train), ("holdout", holdout)):
        if rows:
            writer.append(split, {name: [row[name] for row in rows] for name in rows[0]})
    writer.close()
    return folder


def random_tokens(folder: Path, kind: str, *, rows: int = 40, seed: int = 5) -> Path:
    rng = np.random.default_rng(seed)
    made = [random_row(kind, rng) for _ in range(rows + 8)]
    return tokens_folder(folder, kind, made[:rows], made[rows:])


def causal_lm_folder(folder: Path, model: ModelConfig = MODEL) -> Path:
    """A model's artifact with random weights."""
    from pipelines.training.inputs import fresh_model, tokens_of
    from pipelines.training.saving import save_model

    tokens = tokens_of(tokenizer_folder(folder.with_name(folder.name + "-tokenizer")))
    save_model(fresh_model(model, tokens, seed=1), tokens.folder, folder)
    return folder


def config_of(kind: str, **fields: Any) -> JobConfig:
    values = {"kind": kind, "data": "words", "duration": "6 steps", "global_batch_size": 8, "learning_rate": 3e-3}
    if kind in MODELS and kind != "pretrain":
        values |= {"kind": "pretrain", "objective": kind}
    elif kind != "pretrain":
        values["model"] = "base"
    return CONFIGS[values["kind"]].model_validate(values | fields)


def context(
    root: Path, kind: str, tables: list[Path] | Path, *, launch: LaunchSettings | None = None, **fields: Any
) -> StageContext:
    """A job of this kind, or of pretrain with this objective, over these token tables, all with equal shares, in
    `root`/job."""
    tables = tables if isinstance(tables, list) else [tables]
    if kind in MODELS:
        inputs = {"tokenizer": root / "tokenizer"}
        if not inputs["tokenizer"].exists():
            tokenizer_folder(inputs["tokenizer"], () if kind == "pretrain" else EXTRA)
    else:
        inputs = {"model": root / "base"}
        if not inputs["model"].exists():
            causal_lm_folder(inputs["model"])
    facts = {role: Input(job=role, fingerprint=hashlib.sha256(role.encode()).hexdigest()) for role in inputs}
    for number, table in enumerate(tables):
        role = f"data.{number}"
        inputs[role] = table
        facts[role] = Input(job=table.name, fingerprint=f"{number:064d}", share=1 / len(tables))
    job = Job(
        name=kind,
        stage=kind,
        config=config_of(kind, **fields),
        seed=7,
        model=MODELS.get(kind),
        inputs=facts,
    )
    ctx = StageContext(job=job, inputs=inputs, workdir=root / "job", launch=launch or LaunchSettings(threads=1))
    for folder in (ctx.output, ctx.checkpoints, ctx.record):
        folder.mkdir(parents=True, exist_ok=True)
    return ctx


def run(ctx: StageContext) -> dict[str, Any]:
    return dict(load_stage(ctx.job.kind)(ctx))


def weights_digest(ctx: StageContext) -> str:
    return durable.digest(ctx.output / "model.safetensors")


def main() -> None:
    """`python tests/training_jobs.py task.json`: one job, in this process or in one of several."""
    task = json.loads(Path(sys.argv[1]).read_text())
    world = int(os.environ.get("WORLD_SIZE", "1"))
    launch = LaunchSettings(num_processes=world, threads=1, **task["launch"])
    if task["kind"] in MODELS:
        MODELS[task["kind"]].__dict__["dropout"] = task.get("dropout", MODEL.dropout)
    ctx = context(Path(task["root"]), task["kind"], Path(task["table"]), launch=launch, **task["fields"])
    metrics = run(ctx)
    if int(os.environ.get("RANK", "0")) == 0:
        (ctx.workdir / "metrics.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    main()
