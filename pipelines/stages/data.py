"""The data stage: fetch, parse, account for every row, split off the holdout, write parquet; in shards."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.data.account import KEPT, Account, Tally, check, digest_of
from pipelines.data.blocks import Span
from pipelines.data.formats import Row
from pipelines.data.hub import Split, find
from pipelines.data.row_writer import RowWriter
from pipelines.data.shards import grouped, make_shards, place
from pipelines.data.sources import read, read_builtin, read_holdout
from pipelines.data.spans import spans_of
from pipelines.data.tokens import SPLITS
from pipelines.errors import DataError
from pipelines.plan.jobs import DataJob
from pipelines.recipe.data import Dataset
from pipelines.stages.base import Metrics, StageContext

if TYPE_CHECKING:
    from pipelines.cleaning.quality import Quality

TALLY, DROPPED, HELD = "tally.json", "dropped.jsonl", "held.bin"
"""What a part leaves beside its rows: counts, rows that are not used, and digests of the holdout."""
FETCHED = "fetched"
"""Where a part keeps the file of the Hub that it reads just now."""


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
    named = ctx.job.named_files
    held = [path for role, path in named.items() if role.startswith("holdout.")]
    files = [path for path in ctx.job.files if path not in named.values()]
    cache = ctx.checkpoints / "hub"
    common: dict[str, Any] = {"dataset": dataset.model_dump(mode="json"), "cache": str(cache)}
    if ready := _ready(ctx, dataset):
        common["quality"] = ready
    found = find(dataset, cache) if dataset.hub else {}
    own: list[Path] = []
    if held or dataset.holdout_split:
        kept = found.get(dataset.holdout_split or "")
        whole = {"hub": kept.part(range(len(kept.files)))} if kept else {}
        own = _made(ctx, "holdout", [common | {"split": "holdout", "files": held} | whole])
        _require_promised(own, kept)
        yield from own
    source = found.get(dataset.split)
    more = {"split": "train" if own else "both"} | ({"held": str(own[0] / HELD)} if own else {})
    if source:
        groups: list[dict[str, Any]] = [
            {"files": [], "hub": source.part(group)} for group in _groups(dataset, source.sizes)
        ]
    else:
        pieces, sizes = _pieces(dataset, files)
        groups = [{"files": [pieces[number] for number in group]} for group in _groups(dataset, sizes)]
    made = _made(ctx, "rows", [common | more | group for group in groups])
    if dataset.limit is None:
        _require_promised(made, source)
    yield from made


def _groups(dataset: Dataset, sizes: Sequence[int]) -> list[Sequence[int]]:
    """Numbers of the files of each part."""
    if sizes and _is_cut(dataset):
        return list(grouped(sizes))
    return [range(len(sizes))]


def _require_promised(folders: Sequence[Path], source: Split | None) -> None:
    """Raise DataError where fewer or more rows came from the Hub than the repository's card says."""
    tallies = [Tally.of_json(json.loads((folder / TALLY).read_text(encoding="utf-8"))) for folder in folders]
    came = sum(tally.rows_read or tally.rows_in for tally in tallies)
    if source and source.rows is not None and came != source.rows:
        raise DataError(
            f"hub: {source.repo} gave {came:,} rows, and its card says {source.rows:,}; fetch it again, or choose "
            "another revision"
        )


def _pieces(dataset: Dataset, files: Sequence[str]) -> tuple[list[str | list[Any]], list[int]]:
    """Files, and of large ones the spans that can be read apart; how many bytes each has."""
    pieces, sizes = list[str | list[Any]](), list[int]()
    for file in files:
        path = Path(file)
        found = spans_of(path, dataset.separator) if _is_cut(dataset) else []
        pieces += [[file, *span[1:]] for span in found] or [file]
        # What is no file is told by its reader.
        sizes += [span.stop - span.start for span in found] or [path.stat().st_size if path.is_file() else 0]
    return pieces, sizes


def _is_cut(dataset: Dataset) -> bool:
    """Rows that mean something together, and the first so many, need one part."""
    return dataset.limit is None and dataset.layout is None


def _made(ctx: StageContext, name: str, parts: Sequence[Mapping[str, Any]]) -> list[Path]:
    folder, launch = ctx.checkpoints / "parts" / name, ctx.launch
    return make_shards(_part, parts, folder, engine=launch.engine, workers=launch.workers, record=ctx.record)


def _part(part: Mapping[str, Any], folder: Path) -> None:
    """The rows of some files, or of a source that has no parts."""
    dataset = Dataset.model_validate_json(json.dumps(part["dataset"]))
    account = Account(dataset, folder / DROPPED, _judge(part, dataset))
    train, kept = (RowWriter(folder, split, dataset.format) for split in SPLITS)
    with account, train, kept:
        splits = {"train": train, "holdout": kept}
        for split, row in _split_rows(part, dataset, account, folder):
            splits[split].append(row)
    shutil.rmtree(folder / FETCHED, ignore_errors=True)
    tally = account.tally
    tally.train, tally.holdout, tally.bytes = train.rows, kept.rows, train.bytes + kept.bytes
    (folder / TALLY).write_text(json.dumps(tally.as_json(), default=str))


def _ready(ctx: StageContext, dataset: Dataset) -> Mapping[str, Any]:
    """What quality filters take from elsewhere."""
    if dataset.quality is None or not (dataset.quality.perplexity or dataset.quality.classifier):
        return {}
    from pipelines.stages.quality_models import prepare

    return prepare(ctx, dataset.quality)


def _judge(part: Mapping[str, Any], dataset: Dataset) -> "Quality | None":
    if dataset.quality is None:
        return None
    from pipelines.cleaning.quality import Quality  # numba takes a quarter of a second, and most data need none

    if "quality" not in part:
        return Quality(dataset.quality)
    from pipelines.stages.quality_models import judges

    return Quality(dataset.quality, judges(part["quality"]))


def _split_rows(part: Mapping[str, Any], dataset: Dataset, account: Account, folder: Path) -> Iterator[tuple[str, Row]]:
    """(split, row) of every usable row."""
    files = [Path(file) if isinstance(file, str) else Span(Path(file[0]), *file[1:]) for file in part["files"]]
    source = part.get("hub")
    cache = folder / FETCHED if source else Path(part["cache"])
    if part["split"] == "holdout":
        # What others measure on stays whole.
        with (folder / HELD).open("wb") as held:
            for row, shown in account.usable(read_holdout(dataset, files, cache, source), is_filtered=False):
                held.write(digest_of(shown))
                yield "holdout", row
    elif part["split"] == "train":
        digests = Path(part["held"]).read_bytes()
        seen = {digests[at : at + 16] for at in range(0, len(digests), 16)}
        for row, _ in account.usable(read(dataset, files, cache, source), seen, "also_in_holdout"):
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
        for row, shown in account.usable(read(dataset, files, cache, source)):
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
