"""Reading packed batches against the training step that eats them, in processor time of one thread.

    python benchmarks/read_batches.py --data FOLDER --size 64M

Batches have the shape of recipes/gpt2-124m.yaml: rows of 1,024 tokens, 8 of them. They are read as `pretrain` does:
rows in the order of a mixture of two datasets that changes once, mapped from the disk, packed, collated into tensors.
The step is that of a decoder in the style of gpt2, of the size that --model names, with its optimizer. Prints one JSON
object; `times_the_step` is tokens read for each second over tokens trained for each second, by way of packing, and
`share_of_step` the reverse."""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from measuring import documents, num_bytes, write_repeated
from tokens_stage import data_stage, tokenizer_stage, tokens_stage
from transformers import logging as transformers_logging

from custom_models import DecoderConfig, DecoderForCausalLM
from pipelines.data.collate import Batch, PackedCollator, PackedRows
from pipelines.data.mixing import Phase, PhasedMixture
from pipelines.data.schedule import InOrder
from pipelines.data.tokens import TokenTable, TokenWriter
from pipelines.recipe.model import STYLES
from pipelines.training.losses import causal_lm_loss
from pipelines.training.objectives import PACKERS
from pipelines.training.optim import OptimSettings, build_optimizer

LENGTH, BATCH, STEP_ROWS, VOCABULARY = 1_024, 8, 2, 16_384
GPT2 = {**STYLES["gpt2"], "max_position_embeddings": LENGTH, "vocab_size": VOCABULARY}
SIZES = {
    "7m": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4},
    "124m": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 50_304},
}


def made_up(folder: Path, size: int) -> Path:
    """A token table of documents of a few hundred tokens, of about `size` bytes of text."""
    rng, left = np.random.default_rng(0), size // 4
    folder.mkdir()
    writer = TokenWriter(folder, format="text", vocab_size=VOCABULARY)
    while left > 0:
        lengths = np.clip(rng.lognormal(6, 1, 500), 8, 20_000).astype(int)
        writer.append("train", {"input_ids": [rng.integers(0, VOCABULARY, n) for n in lengths], "num_bytes": lengths})
        left -= int(lengths.sum())
    writer.close()
    return folder


def encoded(source: Path, folder: Path, size: str) -> Path:
    """The table that the stages make of text."""
    dataset = data_stage(write_repeated(list(documents(source)), folder / "text.txt", size), folder / "data", 1)
    made = tokenizer_stage(dataset, folder / "tokenizer", "byte_level_bpe")
    return tokens_stage(dataset, made, folder / "tokens", 1)


def batches(table: TokenTable, packing: str, steps: int) -> Iterator[Batch]:
    """As a trainer's loader gives them."""
    lengths = table.lengths("input_ids")
    rows = PackedRows([(table, PACKERS[packing](lengths, LENGTH)) for _ in range(2)])
    count = steps * BATCH
    phases = [Phase(0, (0.7, 0.3)), Phase(count // 2, (0.4, 0.6))]
    order = PhasedMixture(rows.sizes, phases, 0, length=count, caps=[None, None])
    stream, collate = InOrder(rows, order, count), PackedCollator(0)
    for step in range(steps):
        yield collate(stream.__getitems__(list(range(step * BATCH, (step + 1) * BATCH))))


def seconds_to_read(table: TokenTable, packing: str, steps: int) -> float:
    """For each batch; packing itself, which is done once for a run, is left out."""
    found = batches(table, packing, steps)
    next(found)
    started = time.process_time()
    count = sum(1 for _ in found)
    return (time.process_time() - started) / count


def seconds_of_step(size: str, batch: Batch, steps: int) -> float:
    """For as many tokens as a batch has: the first rows of it are trained, and their time is multiplied."""
    torch.manual_seed(0)
    model = DecoderForCausalLM(DecoderConfig(**{**GPT2, **SIZES[size]})).train()
    optimizer = build_optimizer(model, OptimSettings())
    spent = []
    for _ in range(steps + 1):
        started = time.process_time()
        inputs = {name: value[:STEP_ROWS] for name, value in batch.items()}
        labels = inputs.pop("labels")
        causal_lm_loss(model(**inputs).logits, labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        spent.append(time.process_time() - started)
    return statistics.median(spent[1:]) * BATCH / STEP_ROWS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a text file or a folder of .txt or .txt.gz; default: made up ids")
    parser.add_argument("--size", default="32M", help="bytes of text")
    parser.add_argument("--model", choices=SIZES, default="7m")
    parser.add_argument("--batches", type=int, default=500)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = encoded(options.data, folder, options.size) if options.data else None
        table = TokenTable.open(made or made_up(folder / "tokens", num_bytes(options.size)), "train")
        batch = next(batches(table, "split", 2))
        reading: dict[str, list[float]] = {packing: [] for packing in PACKERS}
        steps = []
        for _ in range(options.pairs):
            for packing, spent in reading.items():
                spent.append(seconds_to_read(table, packing, options.batches))
            steps.append(seconds_of_step(options.model, batch, options.steps))
    tokens = BATCH * LENGTH
    report = {
        "documents": len(table),
        "tokens": table.tokens,
        "step_tokens_per_cpu_second": round(tokens / statistics.median(steps)),
    }
    for packing, spent in reading.items():
        times = [step / read for step, read in zip(steps, spent, strict=True)]
        report[packing] = {
            "read_tokens_per_cpu_second": round(tokens / statistics.median(spent)),
            "times_the_step": round(statistics.median(times)),
            "share_of_step": f"{1 / statistics.median(times):.4%}",
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
