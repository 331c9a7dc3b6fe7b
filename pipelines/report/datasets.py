"""What the report says of a dataset: what became of every row and why, with some of those that are not used, and how
long the others are."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipelines.plan.jobs import Job, Plan
from pipelines.store.artifacts import Artifact

EXCERPTS, SHOWN = 3, 400
"""Rows that are shown for each reason, and characters of each."""
CUT = "runs of words that stood before"
BY: Mapping[str, str] = {
    "reader": "unusable",
    "quality": "quality filters",
    "cleaning": "copies and benchmarks",
    "cut": "cut out",
    "dry run": "dry run",
    "layout": "left over",
}
"""What happens to rows -> how the page calls it; only those of the first three are dropped."""


class Fact(BaseModel):
    """One part of a report."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Excerpt(Fact):
    """A row that is not used."""

    text: str
    place: str = ""
    """File and line."""
    why: str = ""
    """What was measured, or what it is like."""


class ReasonFacts(Fact):
    """Why rows are not used."""

    by: Literal["reader", "quality", "cleaning", "cut", "dry run", "layout"]
    reason: str
    """As the record has it, without `quality_`."""
    rows: int
    excerpts: list[Excerpt] = []


class LengthFacts(Fact):
    """Tokens of the training rows of a dataset."""

    tokens: int
    median: int
    p90: int
    p99: int
    longest: int
    """The percentiles and this are of all rows."""
    edges: list[int] = []
    rows: list[int] = []
    """A histogram: rows from one edge up to the next."""


class DataFacts(Fact):
    """What became of the rows of a dataset."""

    name: str
    format: str
    rows_in: int
    rows_used: int
    dropped: int
    """Rows that are not used: unusable, taken out by quality filters, or removed when the dataset was cleaned."""
    dropped_by_reason: dict[str, int]
    would_drop: dict[str, int] = {}
    """What quality filters would take out, were this no dry run, by reason."""
    left_over: dict[str, int] = {}
    """Rows of a layout that are in no row of ours, by reason; they are not among the rows in."""
    changed: int = 0
    """Rows whose text quality filters changed, or would, and those out of which repeated runs of words were cut."""
    train: int
    holdout: int
    bytes: int
    tokens: int | None
    """Ids of its training rows, under the tokenizer that was used first."""
    reasons: list[ReasonFacts] = []
    """All of the above, filters in their order, with some of the rows."""
    records: list[str] = []
    """Folders, below that of the report, of more such rows."""
    lengths: LengthFacts | None = None
    """Under the tokenizer that was used first."""

    @property
    def lost(self) -> list[ReasonFacts]:
        """Why rows are dropped."""
        return [reason for reason in self.reasons if reason.by in ("reader", "quality", "cleaning") and reason.rows]


def datasets(plan: Plan, done: Mapping[str, Artifact]) -> list[DataFacts]:
    """Of every dataset that is read, in the order of the recipe."""
    found = {job.stage: _data(plan, job, done) for job in plan.jobs if job.kind == "data" and job.name in done}
    return [found[name] for name in plan.recipe.data if name in found]


def _data(plan: Plan, job: Job, done: Mapping[str, Artifact]) -> DataFacts:
    """Of a dataset that is cleaned, what is left after that, once it is done."""
    clean = plan.by_name.get(f"clean-{job.stage}")
    last = clean if clean and clean.name in done else job
    info = json.loads((done[last.name].output / "info.json").read_text(encoding="utf-8"))
    filtered, is_dry = info.get("filtered", {}), info.get("dry_run", False)
    removed = _removed(last, info.get("removed", {}))
    dropped = info["dropped"] | ({} if is_dry else filtered) | removed
    tokens = _tokens(plan, last, done)
    return DataFacts(
        name=job.stage,
        format=info["format"],
        dropped=sum(dropped.values()),
        dropped_by_reason=dropped,
        would_drop=filtered if is_dry else {},
        left_over=info.get("left_over", {}),
        changed=info.get("changed", 0) + info.get("cut", {}).get("rows", 0),
        tokens=tokens.tokens if tokens else None,
        reasons=_reasons(plan, job, info, removed, _excerpts(done, job, last)),
        records=[f"{name}/record" for name in dict.fromkeys((job.name, last.name))],
        lengths=tokens,
        **{name: info[name] for name in ("rows_in", "rows_used", "train", "holdout", "bytes")},
    )


def _removed(job: Job, removed: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Rows that cleaning removed, by reason and by the dataset of today that they are like."""
    return {
        f"{reason} of {job.spoken(of)}": count for reason, counts in removed.items() for of, count in counts.items()
    }


def _tokens(plan: Plan, data: Job, done: Mapping[str, Artifact]) -> LengthFacts | None:
    """From the first tokens job that read a dataset."""
    for job in plan.jobs:
        if job.kind == "tokens" and job.name in done and data.name in {item.job for item in job.inputs.values()}:
            metrics = done[job.name].metrics
            names = {"tokens": "train_tokens", "median": "p50_tokens", "p90": "p90_tokens", "p99": "p99_tokens"}
            found = {ours: int(metrics.get(theirs, 0)) for ours, theirs in names.items()}
            histogram = read_json(done[job.name].record / "lengths.json")
            return LengthFacts(**found, longest=int(metrics.get("longest", 0)), **histogram)
    return None


# --- why ----------------------------------------------------------------------------------------------------------


def _reasons(
    plan: Plan, job: Job, info: Mapping[str, Any], removed: Mapping[str, int], excerpts: Mapping[str, list[Excerpt]]
) -> list[ReasonFacts]:
    """Every filter of the recipe is named, also one that found nothing."""
    quality = plan.recipe.data[job.stage].quality
    asked = [f"quality_{item.kind}" for item in quality.filters] if quality else []
    filtered, layout = info.get("filtered", {}), info.get("left_over", {})
    by: Literal["dry run", "quality"] = "dry run" if info.get("dry_run", False) else "quality"
    counts: list[tuple[Any, str, int]] = [("reader", name, count) for name, count in _largest(info["dropped"])]
    counts += [(by, name, filtered.get(name, 0)) for name in dict.fromkeys([*asked, *filtered])]
    counts += [("cleaning", name, count) for name, count in _largest(removed)]
    if "cut" in info:
        counts.append(("cut", CUT, info["cut"]["rows"]))
    counts += [("layout", name, count) for name, count in _largest(layout)]
    return [
        ReasonFacts(by=by, reason=name.removeprefix("quality_"), rows=count, excerpts=excerpts.get(name, []))
        for by, name, count in counts
    ]


def _largest(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _excerpts(done: Mapping[str, Artifact], data: Job, last: Job) -> dict[str, list[Excerpt]]:
    """The first rows of each reason."""
    found: dict[str, list[Excerpt]] = {}
    record = done[last.name].record
    every = chain(
        _dropped(_lines(done[data.name].record / "dropped.jsonl")),
        _contaminated(_lines(record / "contamination.jsonl")),
        _removed_like(_lines(record / "removed.jsonl")),
        ((CUT, Excerpt(text=str(line.get("cut"))[:SHOWN])) for line in _lines(record / "cut.jsonl")),
    )
    for reason, excerpt in every:
        if len(kept := found.setdefault(reason, [])) < EXCERPTS:
            kept.append(excerpt)
    return found


def _removed_like(lines: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Excerpt]]:
    for line in lines:
        like = f"like: {_said(line['kept'])}" if line.get("kept") else ""
        yield f"{line.get('reason')} of {line.get('of')}", Excerpt(text=_said(line.get("removed")), why=like)


def _contaminated(lines: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Excerpt]]:
    """Passages of training rows with the words that a question has too."""
    for line in lines:
        if line.get("split") == "train":
            why = f"in both: {line.get('shared')}"[:SHOWN]
            yield f"contaminated of {line.get('task')}", Excerpt(text=str(line.get("passage"))[:SHOWN], why=why)


def _dropped(lines: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Excerpt]]:
    for line in lines:
        place = f"{Path(str(line.get('file', ''))).name}:{line.get('line', '')}"
        why = str(line.get("detail") or "")
        yield str(line.get("reason")), Excerpt(text=_said(line.get("row")), place=place, why=why)


def _said(row: str | None) -> str:
    """The text of a row that is JSON, perhaps cut off; or all of it, where it has none."""
    if row is None:
        return ""
    try:
        values = json.loads(row)
    except ValueError:
        # Cut off in the middle, as long rows are.
        start = row.removeprefix('{"text": "')
        return start[:SHOWN].replace("\\n", "\n").replace('\\"', '"') if start != row else row[:SHOWN]
    text = values.get("text") if isinstance(values, dict) else None
    return (text if isinstance(text, str) else row)[:SHOWN]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a file of JSON lines; none where an older program wrote none."""
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    found = json.loads(line)
                except ValueError:
                    continue
                if isinstance(found, dict):
                    yield found
    except OSError:
        return


def read_json(path: Path) -> dict[str, Any]:
    """Empty where an older program wrote nothing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
