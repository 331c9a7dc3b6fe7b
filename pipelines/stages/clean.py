"""The clean stage: a data artifact without the training rows that others make useless; its holdout stays as it is."""

import json
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.cleaning.verdicts import Verdicts, kept_rows
from pipelines.data.corpus import Corpus, read_part
from pipelines.data.formats import num_bytes
from pipelines.data.row_writer import RowWriter
from pipelines.data.shards import place
from pipelines.errors import DataError
from pipelines.plan.jobs import CleanJob
from pipelines.stages.base import Metrics, StageContext
from pipelines.stages.clean_exact import remove_duplicates
from pipelines.stages.clean_steps import Shards, Step, contamination_metrics

SAMPLES, SHOWN = 20, 500
"""Removed rows that are kept of each reason and source, and how many characters of each."""
SIZE = "size.json"
"""Of a part: bytes of the rows that go."""


def run(ctx: StageContext) -> Metrics:
    """Each step gives verdicts, each on what the ones before it left; then the rows that stay are written."""
    config = ctx.job.config
    assert isinstance(config, CleanJob)
    for folder in (ctx.output, ctx.checkpoints, ctx.record):
        folder.mkdir(parents=True, exist_ok=True)
    corpus, shards = Corpus(ctx.inputs), Shards(ctx)
    verdicts = Verdicts(corpus.rows - corpus.own)
    for step in _steps(config):
        step(corpus, verdicts, shards)
    if not verdicts.kept.any():
        raise DataError(f"no training row is left: {_spoken(ctx, verdicts)}")
    _write_samples(ctx, corpus, verdicts)
    less = _write_rows(ctx, corpus, verdicts, shards, config.format)
    _note(ctx, config, verdicts)
    info = _info(ctx.inputs["dataset"], verdicts, less)
    (ctx.output / "info.json").write_text(json.dumps(info, indent=1))
    return _metrics(info) | contamination_metrics(ctx.output)


def _steps(config: CleanJob) -> Iterator[Step]:
    if config.deduplicate:
        yield partial(remove_duplicates, format=config.format)
    if config.deduplicate and config.deduplicate.near < 1:
        from pipelines.stages.clean_near import remove_near_duplicates  # numba takes a quarter of a second

        yield partial(remove_near_duplicates, format=config.format, config=config.deduplicate)
    if config.decontaminate:
        from pipelines.stages.clean_contamination import remove_contaminated

        yield partial(remove_contaminated, format=config.format, config=config.decontaminate)


# --- rows ---------------------------------------------------------------------------------------------------------


def _write_rows(ctx: StageContext, corpus: Corpus, verdicts: Verdicts, shards: Shards, format: str) -> int:
    """The artifact's parquet files; returns the bytes that its rows have less than those of the dataset."""
    verdicts.save(ctx.checkpoints)
    common = {"verdicts": str(ctx.checkpoints), "digest": verdicts.digest(), "format": format}
    parts = [part | common | {"own": part["first"] - corpus.own} for part in corpus.parts(only_own=True)]
    files = less = 0
    for folder in shards.make("rows", _part, parts):
        less += json.loads((folder / SIZE).read_text())["less"]
        for path in sorted(folder.glob("train-*.parquet")):
            place(path, ctx.output / f"train-{files:05d}.parquet")
            files += 1
    for path in sorted(ctx.inputs["dataset"].glob("holdout-*.parquet")):
        shutil.copyfile(path, ctx.output / path.name)  # a link would let what damages one artifact damage both
    return less


def _part(part: Mapping[str, Any], folder: Path) -> None:
    """The rows of a part that stay."""
    number, less, format = part["own"], 0, part["format"]
    with RowWriter(folder, "train", format) as writer:
        for batch in read_part(part):
            kept = kept_rows(Path(part["verdicts"]), number, len(batch))
            number += len(batch)
            for row, stays in zip(batch, kept.tolist(), strict=True):
                if stays:
                    writer.append(row)
                else:
                    less += num_bytes(format, row)
    (folder / SIZE).write_text(json.dumps({"less": less}))


# --- what became of them ------------------------------------------------------------------------------------------


def _info(dataset: Path, verdicts: Verdicts, less: int) -> dict[str, Any]:
    """That of the data artifact, with what was removed since."""
    info = json.loads((dataset / "info.json").read_text())
    removed = {reason: dict(sorted(counts.items())) for reason, counts in verdicts.counts().items()}
    train = int(verdicts.kept.sum())
    gone = len(verdicts.codes) - train
    assert info["train"] == len(verdicts.codes) and gone == sum(sum(one.values()) for one in removed.values())
    info |= {"rows_used": info["rows_used"] - gone, "train": train, "bytes": info["bytes"] - less}
    return info | {"train_in": len(verdicts.codes), "removed": removed}


def _metrics(info: Mapping[str, Any]) -> dict[str, float | int | str]:
    metrics: dict[str, float | int | str] = {
        name: info[name] for name in ("train_in", "train", "holdout", "rows_in", "rows_used", "bytes")
    }
    counts = {reason: sum(of.values()) for reason, of in info["removed"].items()}
    metrics = {"removed": sum(counts.values())} | metrics
    for reason, of in info["removed"].items():
        metrics[f"removed_{reason}"] = counts[reason]
        metrics |= {f"removed_{reason}_of_{role}": count for role, count in of.items()}
    return metrics


def _write_samples(ctx: StageContext, corpus: Corpus, verdicts: Verdicts) -> None:
    """removed.jsonl of the record: the first removed rows of each reason and source, with what each is like."""
    some = [
        (code, corpus.own + row, int(verdicts.like[row]))
        for code in range(1, len(verdicts.labels))
        for row in np.flatnonzero(verdicts.codes == code)[:SAMPLES].tolist()
    ]
    rows = corpus.rows_at({number for _, *pair in some for number in pair if number >= 0})
    shown = {number: json.dumps(row, ensure_ascii=False)[:SHOWN] for number, row in rows.items()}
    with (ctx.record / "removed.jsonl").open("w", encoding="utf-8") as file:
        for code, row, like in some:
            reason, of = verdicts.labels[code]
            sample = {"reason": reason, "of": ctx.job.spoken(of), "removed": shown[row]}
            sample |= {"kept": shown[like]} if like >= 0 else {}
            file.write(json.dumps(sample, ensure_ascii=False) + "\n")


def _note(ctx: StageContext, config: CleanJob, verdicts: Verdicts) -> None:
    share = 1 - verdicts.kept.mean()
    if config.deduplicate and share > config.deduplicate.warn_above:
        print(
            f"note: {share:.1%} of {len(verdicts.codes):,} training rows are removed ({_spoken(ctx, verdicts)}); the "
            f"first of each kind: {ctx.record / 'removed.jsonl'}",
            flush=True,
        )


def _spoken(ctx: StageContext, verdicts: Verdicts) -> str:
    return ", ".join(
        f"{reason} of {ctx.job.spoken(of)} {count:,}"
        for reason, counts in verdicts.counts().items()
        for of, count in counts.most_common()
    )
