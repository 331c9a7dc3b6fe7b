"""Pretraining against a bare PyTorch loop: same model, batches, optimizer and precision, in turns in one process.

    python benchmarks/pretrain_throughput.py --size 1m --threads 2

Prints one JSON object. Each pair of runs gives a ratio of seconds per step; `ratio` is their median: trainer's tokens
per second over the loop's, so 1 is equal and more is faster."""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import TrainingArguments
from transformers import logging as transformers_logging

from custom_models import DecoderConfig, DecoderForCausalLM
from pipelines.data.collate import PackedCollator
from pipelines.data.schedule import Schedule
from pipelines.training.exact import ARGUMENTS, Exact
from pipelines.training.losses import causal_lm_loss, causal_outputs_loss
from pipelines.training.optim import OptimSettings, build_optimizer, build_scheduler
from pipelines.training.trainers import PretrainTrainer

SIZES = {
    "tiny": ({"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 128}, 4, 32),
    "1m": ({"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 512}, 16, 128),
    "124m": (
        {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 50304},
        16,
        1024,
    ),
    "10m": ({"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "vocab_size": 1024}, 8, 256),
}


class Documents:
    """Rows of two documents each, made up once."""

    def __init__(self, length: int, vocab_size: int, count: int = 512):
        ids = np.random.default_rng(0).integers(0, vocab_size, (count, length))
        self.rows = [[row[: length // 3], row[length // 3 :]] for row in ids]
        self.lengths = np.full(count, length)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> list[np.ndarray]:
        return self.rows[row]


def model(fields: dict[str, int]) -> DecoderForCausalLM:
    torch.manual_seed(0)
    return DecoderForCausalLM(DecoderConfig(**fields, max_position_embeddings=1024))


def bare_loop(
    fields: dict[str, int], rows: Documents, batch: int, steps: int, optim: OptimSettings, options: argparse.Namespace
) -> float:
    """Seconds per step of the loop that one would write by hand."""
    net = model(fields).to(options.device).train()
    net.config.use_cache = False
    optimizer = build_optimizer(net, optim)
    scheduler = build_scheduler(optimizer, optim, steps)
    collate, order = PackedCollator(2), Schedule(len(rows), 0)(np.arange(steps * batch)).reshape(steps, batch)
    started = time.perf_counter()
    for numbers in order.tolist():
        inputs = {name: part.to(options.device) for name, part in collate([rows[n] for n in numbers]).items()}
        labels = inputs.pop("labels")
        with torch.autocast(options.device, torch.bfloat16, enabled=options.bf16):
            logits = net(**inputs).logits
        loss = causal_lm_loss(logits, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        loss.item()
    return (time.perf_counter() - started) / steps


def trainer_run(
    fields: dict[str, int], rows: Documents, batch: int, steps: int, optim: OptimSettings, options: argparse.Namespace
) -> float:
    """Seconds per step of PretrainTrainer, start-up and the last checkpoint left out."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = PretrainTrainer(
            model=model(fields),
            args=TrainingArguments(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=batch,
                use_cpu=options.device == "cpu",
                bf16=options.bf16,
                report_to="none",
                disable_tqdm=True,
                **ARGUMENTS,
            ),
            rows=rows,
            exact=Exact(seed=0, checkpoint_every=10**9, optim=optim, record=Path(folder)),
            collator=PackedCollator(2),
            loss=causal_outputs_loss,
        )
        trainer.train()
        return trainer.metrics_log.seconds / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="1m")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--optimizer", choices=["adamw", "muon"], default="adamw")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers_logging.set_verbosity_error()
    fields, batch, length = SIZES[options.size]
    rows = Documents(length, fields["vocab_size"])
    optim = OptimSettings(optimizer=options.optimizer, lr_scheduler_type="cosine")
    runs = {"loop": bare_loop, "trainer": trainer_run}
    for run in runs.values():
        run(fields, rows, batch, 3, optim, options)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for pair in range(options.pairs):
        for name in sorted(runs, reverse=bool(pair % 2)):  # who comes first changes: the machine may drift
            seconds[name].append(runs[name](fields, rows, batch, options.steps, optim, options))
    ratios = [loop / trainer for loop, trainer in zip(seconds["loop"], seconds["trainer"], strict=True)]
    tokens = batch * length
    report = {
        "parameters": model(fields).num_parameters(),
        "optimizer": options.optimizer,
        "bf16": options.bf16,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "threads": options.threads,
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 3) for ratio in ratios],
        **{f"{name}_tokens_per_second": round(tokens / statistics.median(values)) for name, values in seconds.items()},
        **{f"{name}_ms_per_step": round(1000 * statistics.median(values), 3) for name, values in seconds.items()},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
