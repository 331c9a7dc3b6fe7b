"""The plan as a table or as JSON: what is cached, what would run, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipelines.plan.estimate import Estimate, estimate
from pipelines.plan.jobs import Job, Plan
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


def outlook(plan: Plan, store: ArtifactStore, links: Links, position: Position) -> list[Row]:
    """Every job with what a run would do about it."""
    found = survey(plan, store)
    rows = []
    for job in plan.jobs:
        reason = why(found[job.name], store.damage, links.manifest(job.name, store), position)
        state, text = (reason.status, reason.text) if reason else ("cached", "")
        rows.append(Row(job, state, text, found[job.name].artifact, estimate(plan, job)))
    return rows


def as_json(plan: Plan, rows: Sequence[Row]) -> dict[str, Any]:
    """For machines."""
    jobs = []
    for row in rows:
        entry: dict[str, Any] = {"name": row.job.name, "kind": row.job.kind, "stage": row.job.stage, "state": row.state}
        entry |= {"reason": row.reason, "fingerprint": row.job.fingerprint, "folder": row.job.folder}
        entry |= {"inputs": {role: item.job for role, item in row.job.inputs.items()}}
        known = row.estimate.known()
        jobs.append(entry | ({"estimate": known} if known else {}))
    return {"recipe": plan.recipe.name, "jobs": jobs}


def as_text(plan: Plan, rows: Sequence[Row]) -> str:
    """For people."""
    width = max((len(row.job.name) for row in rows), default=0)
    lines = [_head(plan, rows)]
    for row in rows:
        text = _age(row.artifact) if row.artifact else " ".join(filter(None, [row.state, row.reason]))
        cost = "" if row.artifact else _cost(row.estimate)
        lines.append(f"  {_SIGNS[row.state]} {row.job.name:<{width}}  {row.job.fingerprint[:8]}  {text}{cost}".rstrip())
    to_run = sum(row.artifact is None for row in rows)
    lines.append(f"Plan: {len(rows) - to_run} cached, {to_run} to run." + ("" if to_run else " Nothing to do."))
    return "\n".join(lines)


def _head(plan: Plan, rows: Sequence[Row]) -> str:
    parts = [plan.recipe.name, f"{len(plan.recipe.stages)} stages", f"{len(rows)} jobs", plan.recipe.launch.config]
    if parameters := next((row.estimate.parameters for row in rows if row.estimate.parameters), None):
        parts.append(f"{_short(parameters)} parameters")
    return "  ·  ".join(parts)


def _cost(cost: Estimate) -> str:
    parts = []
    if cost.tokens:
        parts.append(f"{_short(cost.tokens)} tokens")
    if cost.flops:
        parts.append(f"{cost.flops:.1e} FLOPs")
    if cost.disk_bytes:
        parts.append(f"{_short(cost.disk_bytes)}B disk")
    return f"  ({', '.join(parts)})" if parts else ""


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
