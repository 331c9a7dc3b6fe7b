"""The plan as a table or as JSON: what is cached, what would run, why, and what it costs."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pipelines.plan.data_estimate import data_estimates, epoch_tokens
from pipelines.plan.estimate import Estimate, estimate
from pipelines.plan.hub_sizes import UNKNOWN
from pipelines.plan.jobs import Job, Plan
from pipelines.plan.rates import KINDS
from pipelines.run.console import duration
from pipelines.run.launcher import light_settings
from pipelines.store.artifacts import Artifact, ArtifactStore, Links, survey
from pipelines.store.stale import Position, why

_SIGNS = {"cached": "=", "new": "+", "resume": "+", "stale": "~", "damaged": "!"}


@dataclass(frozen=True)
class Row:
    """One job of the table."""

    job: Job
    state: str
    """cached | new | resume | stale | damaged"""
    reason: str
    artifact: Artifact | None
    estimate: Estimate


@dataclass(frozen=True)
class Totals:
    """Of all jobs that would run."""

    bytes_in: int
    """Of data jobs."""
    core_seconds: float
    """Of data, clean, tokenizer and tokens jobs."""
    wall_seconds: float | None
    """None on a cluster."""
    workers: int | None
    disk_bytes: int
    free_bytes: int
    """Where the store is, or will be."""
    unknown: tuple[str, ...]
    """Data jobs whose size nobody knows yet; with their tokens they are left out of all these."""
    unpinned: tuple[str, ...] = ()
    """Repositories of the Hub whose commit `make data` chooses."""


def outlook(plan: Plan, store: ArtifactStore, links: Links, position: Position) -> list[Row]:
    """Every job with what a run would do about it."""
    found = survey(plan, store)
    finished = {name: one.artifact.metrics for name, one in found.items() if one.artifact}
    made = data_estimates(plan, finished, _workers(plan))
    rows = []
    for job in plan.jobs:
        reason = why(found[job.name], store.damage, links.manifest(job.name, store), position)
        state, text = (reason.status, reason.text) if reason else ("cached", "")
        cost = made.get(job.name) or estimate(plan, job, epoch_tokens(job, made))
        rows.append(Row(job, state, text, found[job.name].artifact, cost))
    return rows


def _workers(plan: Plan) -> int | None:
    """Processes that read and encode; None on a cluster, which has as many as it has."""
    launch = plan.recipe.launch
    return light_settings(launch).workers if launch.engine == "local" else None


def totals(plan: Plan, rows: Sequence[Row], store: ArtifactStore, unpinned: Sequence[str] = ()) -> Totals:
    """What everything that would run costs together, and what room there is."""
    costs = [(row.job, row.estimate) for row in rows if row.artifact is None]
    data = [cost for job, cost in costs if job.kind in KINDS]
    working = [(cost.disk_bytes or 0) - (cost.kept_bytes or 0) for _, cost in costs]
    workers = _workers(plan)
    folder = next(path for path in (store.root, *store.root.parents) if path.exists())
    return Totals(
        bytes_in=sum(cost.bytes_in or 0 for job, cost in costs if job.kind == "data"),
        core_seconds=sum(cost.core_seconds or 0.0 for cost in data),
        wall_seconds=None if workers is None else sum(cost.wall_seconds or 0.0 for cost in data),
        workers=workers,
        disk_bytes=sum(cost.kept_bytes or 0 for _, cost in costs) + max(working, default=0),
        free_bytes=shutil.disk_usage(folder).free,
        unknown=tuple(job.name for job, cost in costs if job.kind == "data" and cost.text_bytes is None),
        unpinned=tuple(unpinned),
    )


def as_json(plan: Plan, rows: Sequence[Row], whole: Totals) -> dict[str, Any]:
    """For machines."""
    jobs = []
    for row in rows:
        entry: dict[str, Any] = {"name": row.job.name, "kind": row.job.kind, "stage": row.job.stage, "state": row.state}
        entry |= {"reason": row.reason, "fingerprint": row.job.fingerprint, "folder": row.job.folder}
        entry |= {"inputs": {role: item.job for role, item in row.job.inputs.items()}}
        known = row.estimate.known()
        jobs.append(entry | ({"estimate": known} if known else {}))
    return {"recipe": plan.recipe.name, "jobs": jobs, "totals": asdict(whole)}


def as_text(plan: Plan, rows: Sequence[Row], whole: Totals, store: ArtifactStore) -> str:
    """For people."""
    width = max((len(row.job.name) for row in rows), default=0)
    lines = [_head(plan, rows)]
    for row in rows:
        text = _age(row.artifact) if row.artifact else " ".join(filter(None, [row.state, row.reason]))
        cost = "" if row.artifact else _cost(row.estimate)
        lines.append(f"  {_SIGNS[row.state]} {row.job.name:<{width}}  {row.job.fingerprint[:8]}  {text}{cost}".rstrip())
    to_run = sum(row.artifact is None for row in rows)
    lines.append(f"Plan: {len(rows) - to_run} cached, {to_run} to run." + ("" if to_run else " Nothing to do."))
    return "\n".join([*lines, *_room(whole, store), *_unknown(whole)] if to_run else lines)


def _room(whole: Totals, store: ArtifactStore) -> Iterator[str]:
    parts = [f"{_short(whole.bytes_in)}B in"] if whole.bytes_in else []
    if whole.core_seconds:
        parts += _times(whole.core_seconds, whole.wall_seconds, whole.workers)
        yield f"Data and tokens: {', '.join(parts)}; by measured rates, on another machine another figure."
    if whole.disk_bytes:
        room = f"{_short(whole.disk_bytes)}B, and {store.root} has {_short(whole.free_bytes)}B free"
        short = whole.disk_bytes > whole.free_bytes
        yield (
            f"Disk: about {room}" + ("; make room, or choose another folder by STORE (--store)" if short else "") + "."
        )


def _unknown(whole: Totals) -> Iterator[str]:
    if whole.unknown:
        yield f"Without {', '.join(whole.unknown)} and what is made of it: unknown until fetched."
    if whole.unpinned:
        yield f"The commit is not pinned yet of {', '.join(whole.unpinned)}; `make data` pins it, and fetches the data."


def _head(plan: Plan, rows: Sequence[Row]) -> str:
    parts = [plan.recipe.name, f"{len(plan.recipe.stages)} stages", f"{len(rows)} jobs", plan.recipe.launch.config]
    if parameters := next((row.estimate.parameters for row in rows if row.estimate.parameters), None):
        parts.append(f"{_short(parameters)} parameters")
    return "  ·  ".join(parts)


def _cost(cost: Estimate) -> str:
    parts = []
    if cost.bytes_in:
        parts.append(f"{_short(cost.bytes_in)}B in")
    if cost.unpacked_bytes and cost.unpacked_bytes != cost.bytes_in:
        parts.append(f"{_short(cost.unpacked_bytes)}B unpacked")
    if cost.tokens:
        parts.append(f"{_short(cost.tokens)} tokens")
    if cost.flops:
        parts.append(f"{cost.flops:.1e} FLOPs")
    if cost.core_seconds:
        parts.append(_core_time(cost.core_seconds))
    if cost.disk_bytes:
        parts.append(f"{_short(cost.disk_bytes)}B disk")
    told = ", ".join(parts)
    if cost.basis == UNKNOWN.basis:
        told += f"; the rest is {cost.basis}" if parts else cost.basis
    elif cost.basis:
        told += f"; by {cost.basis}"
    return f"  ({told})" if told else ""


def _times(core_seconds: float, wall_seconds: float | None, workers: int | None) -> list[str]:
    if wall_seconds is None:
        return [_core_time(core_seconds), "on as many cores as the cluster has"]
    return [_core_time(core_seconds), f"{duration(wall_seconds)} on {workers} worker{'s' * (workers != 1)}"]


def _core_time(seconds: float) -> str:
    return f"{seconds / 3600:.2f} core-hours" if seconds >= 36 else f"{seconds:.1f} s of a core"


def _age(artifact: Artifact) -> str:
    try:
        since = datetime.now(UTC) - datetime.fromisoformat(artifact.provenance["created"])
    except (KeyError, ValueError):
        return "cached"
    seconds = since.total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"cached {seconds / size:.0f} {unit} ago"
    return "cached just now"


def _short(value: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} "
