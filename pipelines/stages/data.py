"""The data stage: fetch, parse, account for every row, split off the holdout, write parquet; in shards."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.data.account import KEPT, Account, Tally, check, digest_of
from pipelines.data.blocks import Span
from pipelines.data.formats import Row
from pipelines.data.row_writer import RowWriter
from pipelines.data.shards import grouped, make_shards, place
from pipelines.data.sources import read, read_builtin, read_holdout
from pipelines.data.spans import spans_of
from pipelines.data.tokens import SPLITS
from pipelines.plan.jobs import DataJob
from pipelines.recipe.data import Dataset
from pipelines.stages.base import Metrics, StageContext

TALLY, DROPPED, HELD = "tally.json", "dropped.jsonl", "held.bin"
"""What a part leaves beside its rows: counts, rows that are not used, and digests of the holdout."""


def run(ctx: StageContext) -> Metrics:
    """Every row that is read is either written or counted by the reason why not."""
    config = ctx.job.config
    assert isinstance(config, DataJob)
    dataset = config.dataset
    for folder in (ctx.output, ctx.record):
        folder.mkdir(parents=True, exist_ok=True)
    folders = list(_parts(ctx, dataset))
    tally = _merged(folders, ctx.output, ctx.record / DROPPED)
    check(tally, dataset, ctx.record / DROPPED)
    info = tally.info(dataset)
    (ctx.output / "info.json").write_text(json.dumps(info, indent=1))
    metrics: dict[str, float | int | str] = {
        name: info[name] for name in ("rows_in", "rows_used", "train", "holdout", "bytes")
    }
    if "rows_read" in info:
        metrics |= {name: info[name] for name in ("rows_read", "rows_joined")}
    for kind in ("dropped", "filtered", "left_over"):
        if kind in info:
            metrics |= {kind: sum(info[kind].values())}
            metrics |= {f"{kind}_{reason}": count for reason, count in info[kind].items()}
    return metrics | ({"changed": info["changed"]} if "changed" in info else {})


def _parts(ctx: StageContext, dataset: Dataset) -> Iterator[Path]:
    """Folders of parts in their order: a holdout of its own first, since training gives way to it."""
    held = [str(path) for path in ctx.job.named_files.values()]
    files = [path for path in ctx.job.files if path not in held]
    common = {"dataset": dataset.model_dump(mode="json"), "cache": str(ctx.checkpoints / "hub")}
    if dataset.files and dataset.limit is None and dataset.layout is None:
        pieces: list[str | list[Any]] = []
        sizes: list[int] = []
        for file in files:
            found = spans_of(Path(file), dataset.separator)
            pieces += [[file, *span[1:]] for span in found] or [file]
            # What is no file is told by its reader.
            sizes += [span.stop - span.start for span in found] or [_size(Path(file))]
        groups: list[list[Any]] = [[pieces[number] for number in group] for group in grouped(sizes)]
    else:
        groups = [[*files]]
    own: list[Path] = []
    if held or dataset.holdout_split:
        own = _made(ctx, "holdout", [common | {"split": "holdout", "files": held}])
        yield from own
    split = "train" if own else "both"
    more = {"held": str(own[0] / HELD)} if own else {}
    yield from _made(ctx, "rows", [common | {"split": split, "files": group} | more for group in groups])


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _made(ctx: StageContext, name: str, parts: Sequence[Mapping[str, Any]]) -> list[Path]:
    folder = ctx.checkpoints / "parts" / name
    return make_shards(_part, parts, folder, engine=ctx.launch.engine, workers=ctx.launch.workers)


def _part(part: Mapping[str, Any], folder: Path) -> None:
    """The rows of some files, or of a source that has no parts."""
    dataset = Dataset.model_validate_json(json.dumps(part["dataset"]))
    account = Account(dataset, folder / DROPPED)
    train, kept = (RowWriter(folder, split, dataset.format) for split in SPLITS)
    with account, train, kept:
        splits = {"train": train, "holdout": kept}
        for split, row in _split_rows(part, dataset, account, folder):
            splits[split].append(row)
    tally = account.tally
    tally.train, tally.holdout, tally.bytes = train.rows, kept.rows, train.bytes + kept.bytes
    (folder / TALLY).write_text(json.dumps(tally.as_json(), default=str))


def _split_rows(part: Mapping[str, Any], dataset: Dataset, account: Account, folder: Path) -> Iterator[tuple[str, Row]]:
    """(split, row) of every usable row."""
    files = [Path(file) if isinstance(file, str) else Span(Path(file[0]), *file[1:]) for file in part["files"]]
    cache = Path(part["cache"])
    if part["split"] == "holdout":
        # What others measure on stays whole.
        with (folder / HELD).open("wb") as held:
            for row, shown in account.usable(read_holdout(dataset, files, cache), is_filtered=False):
                held.write(digest_of(shown))
                yield "holdout", row
    elif part["split"] == "train":
        digests = Path(part["held"]).read_bytes()
        seen = {digests[at : at + 16] for at in range(0, len(digests), 16)}
        for row, _ in account.usable(read(dataset, files, cache), seen, "also_in_holdout"):
            yield "train", row
    elif dataset.builtin:
        # The world keeps its own facts apart, so its own split stands.
        seen = set()
        for row, shown in account.usable(read_builtin(dataset, "train")):
            seen.add(digest_of(shown))
            yield "train", row
        for row, _ in account.usable(read_holdout(dataset, files, cache) if dataset.holdout else iter(()), seen):
            yield "holdout", row
    else:
        for row, shown in account.usable(read(dataset, files, cache)):
            # Several pairs answer one prompt: all of them stand on one side.
            key = json.dumps(row["prompt"]) if dataset.layout and dataset.format == "preference" else shown
            share = int.from_bytes(digest_of(key)[:8]) / 2**64
            yield "holdout" if share < dataset.holdout else "train", row


def _merged(folders: Sequence[Path], output: Path, quarantine: Path) -> Tally:
    """The parts' files numbered through, their counts added up, and of each reason's rows the first ones."""
    tally, counts, files = Tally(), Counter[str](), Counter[str]()
    with quarantine.open("w", encoding="utf-8") as kept:
        for folder in folders:
            tally.add(Tally.of_json(json.loads((folder / TALLY).read_text(encoding="utf-8"))))
            with (folder / DROPPED).open(encoding="utf-8") as lines:
                for line in lines:
                    reason = json.loads(line)["reason"]
                    counts[reason] += 1
                    if counts[reason] <= KEPT:
                        kept.write(line)
            for split in SPLITS:
                for path in sorted(folder.glob(f"{split}-*.parquet")):
                    place(path, output / f"{split}-{files[split]:05d}.parquet")
                    files[split] += 1
    return tally
