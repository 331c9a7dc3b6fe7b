"""Small jobs of stage `finetune` and of its benchmarks, with the tables and models that they read."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from training_jobs import VOCAB, run, tokenizer_folder, tokens_folder

from pipelines.plan.jobs import Input, Job
from pipelines.recipe.finetune import FinetuneStage
from pipelines.recipe.model import ModelConfig
from pipelines.run.worker import leave_group
from pipelines.stages.base import LaunchSettings, StageContext
from pipelines.training.inputs import fresh_model, tokens_of
from pipelines.training.saving import save_model

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 48}
MODELS = {
    name: ModelConfig.model_validate(SMALL | {"architecture": name, "dropout": 0.1})
    for name in ("decoder", "encoder", "encoder_decoder")
}


def labelled(folder: Path, kind: str, *, rows: int = 40, pair: bool = False, seed: int = 5) -> Path:
    """single: whether a text's words are small; multi: whether it has a small word, a large one; number: the share of
    small words."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(rows + 16):
        is_small = rng.random() < 0.5
        low, high = (4, 50) if is_small else (50, VOCAB)
        text = rng.integers(low, high, rng.integers(2, 9)).tolist()
        if kind != "single":
            text = rng.integers(4, VOCAB, rng.integers(2, 9)).tolist()
        small = np.array(text) < 50
        label = {
            "single": "small" if is_small else "large",
            "multi": [name for name, on in (("small", small.any()), ("large", (~small).any())) if on],
            "number": float(small.mean()),
        }[kind]
        made.append(
            {"text_ids": text, "pair_ids": [7, 8, 9][: int(rng.integers(1, 4))] if pair else [], "label": label}
        )
    return tokens_folder(folder, "labelled", made[:rows], made[rows:])


def pairs(folder: Path, *, rows: int = 60, seed: int = 5, words: int = 12) -> Path:
    """The target says the source backwards."""
    rng = np.random.default_rng(seed)
    sources = [rng.integers(10, 10 + words, rng.integers(2, 5)).tolist() for _ in range(rows + 8)]
    made = [{"source_ids": source, "target_ids": source[::-1]} for source in sources]
    return tokens_folder(folder, "pairs", made[:rows], made[rows:])


def context(
    root: Path,
    table: Path,
    *,
    architecture: str = "encoder",
    model: Path | None = None,
    shape: dict[str, Any] | None = None,
    launch: LaunchSettings | None = None,
    **fields: Any,
) -> StageContext:
    """A job over this table, from random weights or from a model's folder, in `root`/job."""
    inputs = {"data.0": table}
    if model is None:
        inputs["tokenizer"] = root / "tokenizer"
        if not inputs["tokenizer"].exists():
            tokenizer_folder(inputs["tokenizer"])
    else:
        inputs["model"] = model
    facts = {role: Input(job=role, fingerprint=hashlib.sha256(role.encode()).hexdigest()) for role in inputs}
    facts["data.0"] = Input(job="words", fingerprint="0" * 64, share=1.0)
    values = {"kind": "finetune", "task": "classification", "model": None if model is None else "base", "data": "words"}
    values |= {"duration": "6 steps", "global_batch_size": 8, "learning_rate": 3e-3} | fields
    shaped = ModelConfig.model_validate(SMALL | {"architecture": architecture, "dropout": 0.1} | (shape or {}))
    job = Job(
        name="tuned",
        stage="tuned",
        config=FinetuneStage.model_validate_json(json.dumps(values)),
        seed=7,
        model=shaped if model is None else None,
        inputs=facts,
    )
    ctx = StageContext(job=job, inputs=inputs, workdir=root / "job", launch=launch or LaunchSettings(threads=1))
    for folder in (ctx.output, ctx.checkpoints, ctx.record):
        folder.mkdir(parents=True, exist_ok=True)
    return ctx


def base_folder(root: Path, architecture: str, **shape: Any) -> Path:
    """A language model of random weights, in `root`/base."""
    if not (root / "base").exists():
        model = ModelConfig.model_validate(SMALL | {"architecture": architecture, "dropout": 0.1} | shape)
        tokens = tokens_of(tokenizer_folder(root / "tokenizer"))
        save_model(fresh_model(model, tokens, seed=1), tokens.folder, root / "base")
    return root / "base"


def main() -> None:
    """`python tests/finetune_jobs.py task.json`: one job, in this process or in one of several.

    The file has `root`, `kind` (of the labels, or seq2seq), and perhaps `fields`, `launch`, `pair`, `dropout`."""
    task = json.loads(Path(sys.argv[1]).read_text())
    root, kind = Path(task["root"]), task["kind"]
    is_main, world = os.environ.get("RANK", "0") == "0", int(os.environ.get("WORLD_SIZE", "1"))
    architecture = "encoder_decoder" if kind == "seq2seq" else "encoder"
    if is_main and not (root / "base").exists():
        pairs(root / "table") if kind == "seq2seq" else labelled(root / "table", kind, pair=task.get("pair", False))
        base_folder(root, architecture, **({"dropout": task["dropout"]} if "dropout" in task else {}))
    PartialState().wait_for_everyone()
    ctx = context(
        root,
        root / "table",
        model=root / "base",
        task="seq2seq" if kind == "seq2seq" else "classification",
        launch=LaunchSettings(num_processes=world, threads=1, **{"checkpoint_every": 3} | task.get("launch", {})),
        **{"duration": "30 steps", "eval_steps": 4, "learning_rate": 1e-2} | task.get("fields", {}),
    )
    metrics = run(ctx)
    if is_main:
        (ctx.workdir / "metrics.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    main()
    leave_group(together=True)
