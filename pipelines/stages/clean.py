"""The clean stage: a data artifact without the training rows that others make useless; its holdout stays as it is."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.cleaning.verdicts import FIRST, Saved, Verdicts
from pipelines.data.corpus import Corpus, read_part
from pipelines.data.formats import Row, num_bytes
from pipelines.data.row_writer import RowWriter
from pipelines.data.shards import place
from pipelines.errors import DataError
from pipelines.plan.jobs import CleanJob
from pipelines.stages.base import Metrics, StageContext
from pipelines.stages.clean_exact import remove_duplicates
from pipelines.stages.clean_steps import Shards, Step, contamination_metrics

SHOWN = 500
"""Characters of a row that was removed or cut."""
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
    is_cut = bool(config.deduplicate and config.deduplicate.spans)
    info = _info(ctx.inputs["dataset"], verdicts, less, is_cut=is_cut)
    (ctx.output / "info.json").write_text(json.dumps(info, indent=1))
    return _metrics(info) | contamination_metrics(ctx.output)


def _steps(config: CleanJob) -> Iterator[Step]:
    if config.deduplicate:
        yield partial(remove_duplicates, format=config.format)
    if config.deduplicate and config.deduplicate.near < 1:
        from pipelines.stages.clean_near import remove_near_duplicates  # numba takes a quarter of a second

        yield partial(remove_near_duplicates, format=config.format, config=config.deduplicate)
    if config.decontaminate:  # in whole texts, of which parts may be cut out after it
        from pipelines.stages.clean_contamination import remove_contaminated

        yield partial(remove_contaminated, format=config.format, config=config.decontaminate)
    if config.deduplicate and config.deduplicate.spans:
        from pipelines.stages.clean_spans import cut_repeated_spans

        yield partial(cut_repeated_spans, config=config.deduplicate)


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
    """The rows of a part that stay, without what is cut out of them."""
    first, less, format, saved = part["own"], 0, part["format"], Saved(Path(part["verdicts"]))
    with RowWriter(folder, "train", format) as writer:
        for batch in read_part(part):
            less += sum(num_bytes(format, row) for row in batch)
            cuts = saved.cuts(first, len(batch))
            for number, (row, stays) in enumerate(zip(batch, saved.kept(first, len(batch)), strict=True), first):
                if stays:
                    writer.append(_cut(row, cuts[number]) if number in cuts else row)
            first += len(batch)
    (folder / SIZE).write_text(json.dumps({"less": less - writer.bytes}))


def _cut(row: Row, runs: Sequence[tuple[int, int]]) -> Row:
    from pipelines.cleaning.spans import without  # numba takes a quarter of a second, and few jobs cut

    return {"text": without(row["text"], runs)}


# --- what became of them ------------------------------------------------------------------------------------------


def _info(dataset: Path, verdicts: Verdicts, less: int, *, is_cut: bool) -> dict[str, Any]:
    """That of the data artifact, with what was removed since."""
    info = json.loads((dataset / "info.json").read_text())
    removed = {reason: dict(sorted(counts.items())) for reason, counts in verdicts.counts().items()}
    train = int(verdicts.kept.sum())
    gone = len(verdicts.codes) - train
    assert info["train"] == len(verdicts.codes) and gone == sum(sum(one.values()) for one in removed.values())
    info |= {"rows_used": info["rows_used"] - gone, "train": train, "bytes": info["bytes"] - less}
    info |= {"train_in": len(verdicts.codes), "removed": removed}
    if not is_cut:
        return info
    rows = len(np.unique(verdicts.cuts[:, 0]))
    return info | {"cut": {"rows": rows, "runs": len(verdicts.cuts), "words": dict(sorted(verdicts.cut_words.items()))}}


def _metrics(info: Mapping[str, Any]) -> dict[str, float | int | str]:
    metrics: dict[str, float | int | str] = {
        name: info[name] for name in ("train_in", "train", "holdout", "rows_in", "rows_used", "bytes")
    }
    counts = {reason: sum(of.values()) for reason, of in info["removed"].items()}
    metrics = {"removed": sum(counts.values())} | metrics
    for reason, of in info["removed"].items():
        metrics[f"removed_{reason}"] = counts[reason]
        metrics |= {f"removed_{reason}_of_{role}": count for role, count in of.items()}
    if cut := info.get("cut"):
        metrics |= {"cut_rows": cut["rows"], "cut_runs": cut["runs"], "cut_words": sum(cut["words"].values())}
    return metrics


def _write_samples(ctx: StageContext, corpus: Corpus, verdicts: Verdicts) -> None:
    """Of the record: removed.jsonl, the first rows removed for each reason and source, with what each is like; and
    cut.jsonl, runs of words that were cut out of rows."""
    some = [
        (code, corpus.own + row, int(verdicts.like[row]))
        for code in range(1, len(verdicts.labels))
        for row in np.flatnonzero(verdicts.codes == code)[:FIRST].tolist()
    ]
    cut = [corpus.own + row for _, row, *_ in verdicts.first_cuts]
    rows = corpus.rows_at({*cut, *(number for _, *pair in some for number in pair if number >= 0)})
    shown = {number: _shown(row) for number, row in rows.items()}
    samples = list[dict[str, str]]()
    for code, number, like in some:
        reason, of = verdicts.labels[code]
        sample = {"reason": reason, "of": ctx.job.spoken(of), "removed": shown[number]}
        samples.append(sample | ({"kept": shown[like]} if like >= 0 else {}))
    _write_lines(ctx.record / "removed.jsonl", samples)
    if cut:
        from pipelines.cleaning.spans import part_of

        runs = [
            {"of": ctx.job.spoken(of), "cut": part_of(rows[number]["text"], start, stop), "row": shown[number]}
            for number, (of, _, start, stop) in zip(cut, verdicts.first_cuts, strict=True)
        ]
        _write_lines(ctx.record / "cut.jsonl", runs)


def _shown(row: Row) -> str:
    """Its beginning and its end, where rows of one template may differ."""
    text = json.dumps(row, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} [...] {text[-SHOWN // 2 :]}"


def _write_lines(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _note(ctx: StageContext, config: CleanJob, verdicts: Verdicts) -> None:
    share = 1 - verdicts.kept.mean()
    if config.deduplicate and share > config.deduplicate.warn_above:
        print(
            f"note: {share:.1%} of {len(verdicts.codes):,} training rows are removed ({_spoken(ctx, verdicts)}); "
            f"{ctx.job.folder}/record/removed.jsonl shows the first of each",
            flush=True,
        )


def _spoken(ctx: StageContext, verdicts: Verdicts) -> str:
    return ", ".join(
        f"{reason} of {ctx.job.spoken(of)} {count:,}"
        for reason, counts in verdicts.counts().items()
        for of, count in counts.most_common()
    )
