"""From files of text to token tables, against tokenizers' own `encode_batch_fast` and `datasets.map`.

    python benchmarks/tokens_stage.py --data FOLDER --size 1G --pairs 3

The text (of --data, else of the built-in world) is cut into documents of about 3 kB and repeated up to `--sample` for
the pairs, and up to `--size` for one run of each stage that is watched for its memory. Prints one JSON object.
`against_encode_batch_fast` is processor time of tokenizers' call alone (text in memory, ids wanted) over that of the
whole tokens stage (processes started, rows read, encoded, checked, written), for the same rows; above 1 the stage is
faster. The ids are compared. `against_datasets_map` is the same for the call of `map`, with two processes."""

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Cost, documents, measured, num_bytes_of, write_repeated

from pipelines.plan.jobs import DataJob, Input, Job, TokensJob
from pipelines.recipe.data import Dataset
from pipelines.recipe.stages import TokenizerStage
from pipelines.stages import data, tokenizer, tokens
from pipelines.stages.base import LaunchSettings, StageContext

TEMPLATE = Path(__file__).parents[1] / "recipes" / "chat_templates" / "chatml.jinja"
FAMILIES: dict[str, dict[str, Any]] = {
    "byte_level_bpe": {"vocab_size": 16_384},
    "bpe": {"vocab_size": 16_384},
    "unigram": {"vocab_size": 16_384},
    "wordpiece": {"vocab_size": 16_384},
    "word": {"vocab_size": 16_384},
    "char": {},
    "byte": {},
}
BATCH = 1_000
"""Rows that the peers are given at once."""


def data_stage(file: Path, folder: Path, workers: int) -> Path:
    """A dataset without filters."""
    config = DataJob(dataset=Dataset(files=(str(file),), separator="blank_line"))
    job = Job(name="data-text", stage="text", config=config, seed=None, files={str(file): "0"})
    ctx = StageContext(job=job, inputs={}, workdir=folder, launch=LaunchSettings(workers=workers))
    data.run(ctx)
    return ctx.output


def tokenizer_stage(dataset: Path, folder: Path, family: str) -> Path:
    config = TokenizerStage(kind="tokenizer", data={"text": 1.0}, algorithm=family, **FAMILIES[family])
    inputs = {"data.0": Input(job="data-text", fingerprint="0", share=1.0)}
    job = Job(name="tokenizer", stage="tokenizer", config=config, seed=None, files={str(TEMPLATE): "0"}, inputs=inputs)
    ctx = StageContext(job=job, inputs={"data.0": dataset}, workdir=folder)
    tokenizer.run(ctx)
    return ctx.output


def tokens_stage(dataset: Path, tokenizer_folder: Path, folder: Path, workers: int) -> Path:
    job = Job(name="tokens-text", stage="text", config=TokensJob(format="text"), seed=None)
    inputs = {"dataset": dataset, "tokenizer": tokenizer_folder}
    ctx = StageContext(job=job, inputs=inputs, workdir=folder, launch=LaunchSettings(workers=workers))
    tokens.run(ctx)
    return ctx.output


# --- peers ------------------------------------------------------------------------------------------------------------


def batches_of(dataset: Path) -> Iterator[list[str]]:
    from pipelines.data.rows import read_rows

    for split in ("train", "holdout"):
        for rows in read_rows(dataset, split, BATCH):
            yield [row["text"] for row in rows]


def encode_batch_fast(dataset: Path, tokenizer_folder: Path) -> tuple[float, str]:
    """(processor seconds of the calls, digest of the ids)"""
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    encoder.encode_special_tokens = True
    digest, seconds = hashlib.sha256(), 0.0
    for texts in batches_of(dataset):
        with Cost() as cost:
            encoded = [one.ids for one in encoder.encode_batch_fast(texts, add_special_tokens=False)]
        seconds += cost.cpu_seconds
        for ids in encoded:
            digest.update(np.array(ids, "<u4").tobytes())
    return seconds, digest.hexdigest()


def datasets_map(dataset: Path, tokenizer_folder: Path, cache: Path) -> float:
    """Processor seconds of the call."""
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    encoder = AutoTokenizer.from_pretrained(tokenizer_folder)
    rows = datasets.load_dataset(
        "parquet", data_files=[str(path) for path in sorted(dataset.glob("*.parquet"))], cache_dir=str(cache)
    )["train"]
    with Cost() as cost:
        rows.map(lambda batch: {"input_ids": encoder(batch["text"])["input_ids"]}, batched=True, num_proc=2)
    return cost.cpu_seconds


def digest_of(table_folder: Path, tokenizer_folder: Path) -> str:
    """Of the ids between the control tokens that the stage puts around a document."""
    from pipelines.data.chat import ChatRenderer
    from pipelines.data.tokens import SPLITS, TokenTable

    first = int(ChatRenderer.load(tokenizer_folder).add_bos_token)
    digest = hashlib.sha256()
    for split in SPLITS:
        table = TokenTable.open(table_folder, split)
        for row in range(len(table)):
            digest.update(table.ids("input_ids", row)[first:-1].astype("<u4").tobytes())
    return digest.hexdigest()


# --- what is measured -------------------------------------------------------------------------------------------------


def compare(family: str, dataset: Path, made: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Pairs of the stage and its peers on one dataset."""
    size, ratios, map_ratios, speeds, peer_speeds = num_bytes_of(dataset) / 1e6, [], [], [], []
    for pair in range(options.pairs):
        output, cost = measured(tokens_stage, dataset, made, folder / f"tokens-{family}-{pair}", options.workers)
        (seconds, digest), _ = measured(encode_batch_fast, dataset, made)
        if digest != digest_of(output, made):
            sys.exit(f"{family}: the stage's ids are not those of encode_batch_fast")
        ratios.append(seconds / cost.cpu_seconds)
        speeds.append(size / cost.cpu_seconds)
        peer_speeds.append(size / seconds)
        if family in options.map:
            seconds, _ = measured(datasets_map, dataset, made, folder / f"map-{family}-{pair}")
            map_ratios.append(seconds / cost.cpu_seconds)
    found = {
        "against_encode_batch_fast": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "stage_mb_per_cpu_second": round(statistics.median(speeds), 2),
        "encode_batch_fast_mb_per_cpu_second": round(statistics.median(peer_speeds), 2),
    }
    if map_ratios:
        found["against_datasets_map"] = round(statistics.median(map_ratios), 2)
    return found


def whole(file: Path, made: Path, folder: Path, workers: int) -> dict[str, Any]:
    """The two stages on a whole file: time and memory of all their processes."""
    figures = {"gb": round(file.stat().st_size / 1e9, 2)}
    dataset, cost = measured(data_stage, file, folder / "whole-data", workers)
    figures |= {f"data_{name}": value for name, value in cost.rounded(file.stat().st_size).items()}
    _, cost = measured(tokens_stage, dataset, made, folder / "whole-tokens", workers)
    return figures | {f"tokens_{name}": value for name, value in cost.rounded(file.stat().st_size).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a text file or a folder of .txt or .txt.gz")
    parser.add_argument("--sample", default="64M", help="bytes of the pairs")
    parser.add_argument("--size", default="128M", help="bytes of the run that is watched for its memory; 0 for none")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=[*FAMILIES])
    parser.add_argument("--map", nargs="*", choices=FAMILIES, default=["byte_level_bpe"], help="against datasets.map")
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--scratch", type=Path, help="where to write; default: the system's folder for such files")
    options = parser.parse_args()
    base, report = list(documents(options.data)), {"workers": options.workers}
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name)
        once, _ = measured(data_stage, write_repeated(base, folder / "once.txt", 1), folder / "once", 1)
        sample = write_repeated(base, folder / "sample.txt", options.sample)
        dataset, _ = measured(data_stage, sample, folder / "data", options.workers)
        for family in options.families:
            made, _ = measured(tokenizer_stage, once, folder / f"tokenizer-{family}", family)
            report[family] = compare(family, dataset, made, folder, options)
            print(f"{family}: {json.dumps(report[family])}", file=sys.stderr)
        if options.size != "0":
            file = write_repeated(base, folder / "whole.txt", options.size)
            report["whole"] = whole(file, folder / f"tokenizer-{options.families[0]}/output", folder, options.workers)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
