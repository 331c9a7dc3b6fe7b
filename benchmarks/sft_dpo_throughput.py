"""SFT and DPO against TRL's own trainer and padded collator: same model and rows, real tokens per second.

    python benchmarks/sft_dpo_throughput.py --kind sft --threads 2

Prints one JSON object; `ratio` is our real tokens per second over TRL's, the median of pairs run in turns. TRL's DPO
computes its reference log-probabilities up front too (precompute_ref_log_probs), outside the time that is measured."""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_OFFLINE="1", TQDM_DISABLE="1")

import datasets
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback
from transformers import logging as transformers_logging
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from custom_models import DecoderConfig, DecoderForCausalLM
from pipelines.data.collate import ChatRows, PairRows
from pipelines.data.schedule import GroupedByLength, Schedule
from pipelines.data.tokens import TokenTable, TokenWriter
from pipelines.training.exact import ARGUMENTS, Exact
from pipelines.training.reference import reference_scores
from pipelines.training.trainers import ExactDPOTrainer, ExactSFTTrainer, ScoredPairs

VOCAB, PAD, EOS = 512, 2, 3
COMMON = {"learning_rate": 1e-4, "use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True}
COMMON |= {"gradient_checkpointing": False, "max_length": None, "lr_scheduler_type": "constant"}


def model() -> DecoderForCausalLM:
    torch.manual_seed(0)
    fields = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": VOCAB}
    return DecoderForCausalLM(DecoderConfig(**fields, max_position_embeddings=1024, pad_token_id=PAD, eos_token_id=EOS))


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token=f"w{EOS}", pad_token=f"w{PAD}")


def made_up_rows(kind: str, count: int) -> list[dict[str, Any]]:
    """Lengths as in conversations: log-normal, most short and a few long."""
    rng = np.random.default_rng(0)

    def ids(mean: float, most: int) -> list[int]:
        return rng.integers(4, VOCAB, int(np.clip(rng.lognormal(np.log(mean), 0.7), 4, most))).tolist()

    rows = []
    for _ in range(count):
        if kind == "sft":
            prompt, answer = ids(30, 120), ids(50, 240)
            mask = [0] * len(prompt) + [1] * len(answer)
            rows.append({"input_ids": prompt + answer, "assistant_mask": mask, "num_bytes": 1})
        else:
            rows.append({"prompt_ids": ids(25, 80), "chosen_ids": ids(40, 160), "rejected_ids": ids(40, 160)})
    return rows


class Stopwatch(TrainerCallback):
    """Time from the first step's end to the last one's."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.started = time.perf_counter()
        self.seconds = time.perf_counter() - self.started


def ours(kind: str, rows: list[dict[str, Any]], batch: int, steps: int, folder: Path) -> float:
    """Real tokens per second."""
    writer = TokenWriter(folder, format="chat" if kind == "sft" else "preference", vocab_size=VOCAB)
    writer.append("train", {name: [row[name] for row in rows] for name in rows[0]})
    writer.close()
    table = TokenTable.open(folder, "train")
    table_rows: Any = (ChatRows if kind == "sft" else PairRows)([table], max_length=1024, overlong="drop")
    order = GroupedByLength(Schedule(len(rows), 0), table_rows.longest, batch_size=batch, num_batches=steps, seed=0)
    net = model()
    if kind == "dpo":
        everything = np.arange(len(rows))
        scores = reference_scores(
            net, table_rows, everything, name="train", pad_id=PAD, folder=folder, identity={"job": "benchmark"}
        )
        table_rows = ScoredPairs(table_rows, *scores)
    config = {"sft": SFTConfig, "dpo": DPOConfig}[kind]
    extra = {"dataset_kwargs": {"skip_prepare_dataset": True}} if kind == "sft" else {}
    trainer = {"sft": ExactSFTTrainer, "dpo": ExactDPOTrainer}[kind](
        model=net,
        args=config(
            output_dir=str(folder), max_steps=steps, per_device_train_batch_size=batch, **COMMON, **ARGUMENTS, **extra
        ),
        rows=table_rows,
        exact=Exact(seed=0, checkpoint_every=10**9, schedule=order),
        processing_class=tokenizer(),
    )
    watch = Stopwatch()
    trainer.add_callback(watch)
    trainer.train()
    return sum(trainer.tokens_of_step(step) for step in range(1, steps)) / watch.seconds


def trls(kind: str, rows: list[dict[str, Any]], batch: int, steps: int, folder: Path) -> float:
    """Real tokens per second of TRL's trainer as it comes, rows in a random order, padded to the longest of a batch."""
    config = {"sft": SFTConfig, "dpo": DPOConfig}[kind]
    words = lambda ids: " ".join(f"w{number}" for number in ids)  # noqa: E731
    if kind == "sft":
        columns = [
            {
                "input_ids": row["input_ids"],
                "labels": [i if m else -100 for i, m in zip(row["input_ids"], row["assistant_mask"], strict=True)],
            }
            for row in rows
        ]
        extra: dict[str, Any] = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    else:
        columns = [{name.removesuffix("_ids"): words(ids) for name, ids in row.items()} for row in rows]
        extra = {"precompute_ref_log_probs": True, "precompute_ref_batch_size": batch}
    trainer = {"sft": SFTTrainer, "dpo": DPOTrainer}[kind](
        model=model(),
        args=config(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=batch,
            save_strategy="no",
            logging_steps=1,
            **COMMON,
            **extra,
        ),
        train_dataset=datasets.Dataset.from_list(columns),
        processing_class=tokenizer(),
    )
    watch, seen = Stopwatch(), []
    trainer.add_callback(watch)
    collate = trainer.data_collator

    def counting(some: list[Any]) -> Any:
        made = collate(some)
        seen.append(int(made["attention_mask"].sum()))
        return made

    trainer.data_collator = counting
    trainer.train()
    return sum(seen[1:steps]) / watch.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=["sft", "dpo"], default="sft")
    parser.add_argument("--steps", type=int, default=33)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers_logging.set_verbosity_error()
    datasets.disable_progress_bars()
    rows = made_up_rows(options.kind, options.steps * options.batch)
    rates: dict[str, list[float]] = {"ours": [], "trl": []}
    for pair in range(options.pairs):
        for name, run in sorted({"ours": ours, "trl": trls}.items(), reverse=bool(pair % 2)):
            with tempfile.TemporaryDirectory() as folder:
                rates[name].append(run(options.kind, rows, options.batch, options.steps, Path(folder)))
    ratios = [one / other for one, other in zip(rates["ours"], rates["trl"], strict=True)]
    report = {
        "kind": options.kind,
        "parameters": model().num_parameters(),
        "threads": options.threads,
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        **{f"{name}_real_tokens_per_second": round(statistics.median(values)) for name, values in rates.items()},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
