"""What the report says of mixtures: what each stage was to draw of each dataset, and what it drew."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from pydantic import Field

from pipelines.plan.jobs import Job, Plan
from pipelines.report.datasets import Fact, read_json
from pipelines.report.figures import share_text
from pipelines.store.artifacts import Artifact


class UseFacts(Fact):
    """What one training stage took from one dataset."""

    stage: str
    data: str
    share: float
    """Planned in the first phase."""
    rows_in: int | None
    rows_used: int | None
    tokens: int | None
    epochs: float | None = None
    """Passes over it by the end."""
    documents_cut: int | None = None
    """Documents that stand in more than one piece."""
    planned: list[float] = Field(default_factory=list)
    drawn: list[float] = Field(default_factory=list)
    """Shares in each phase; empty where an older program kept none."""
    total: float | None = None
    """Tokens or examples drawn in the whole run."""
    cap: float | None = None
    """Most passes that the recipe allows."""


class PartFacts(Fact):
    """A part of a run in which nothing changes."""

    phase: int
    start: float
    """Share of the run before it."""
    shares: list[float]
    """Drawn of each dataset."""


class MixtureFacts(Fact):
    """What one training stage draws from its datasets."""

    stage: str
    unit: str = ""
    """tokens | examples; empty where an older program kept no account."""
    steps: int | None = None
    starts: list[float] = Field(default_factory=list)
    """Of the phases: shares of the run before them."""
    parts: list[PartFacts] = Field(default_factory=list)
    uses: list[UseFacts]

    @property
    def notes(self) -> list[str]:
        """Where a dataset has been taken as often as it may be."""
        return [
            f"From {share_text(part.start)} on {use.data} has been taken as often as it may be "
            f"({use.cap:g} epochs); the others share its part."
            for number, use in enumerate(self.uses)
            for before, part in pairwise(self.parts)
            if use.cap is not None and before.phase == part.phase and before.shares[number] and not part.shares[number]
        ]


def mixtures(plan: Plan, done: Mapping[str, Artifact], kinds: Sequence[str]) -> list[MixtureFacts]:
    """Of every finished stage of these kinds."""
    return [
        _mixture(plan, job, done[job.name])
        for job in plan.jobs
        if job.kind in kinds and job.name in done and job.mixture
    ]


def _mixture(plan: Plan, job: Job, artifact: Artifact) -> MixtureFacts:
    kept = read_json(artifact.record / "mixture.json")
    order = {role: number for number, role in enumerate(kept.get("roles", ()))}
    phases, parts = kept.get("phases", []), kept.get("parts", [])
    starts = [phase["start"] for phase in phases]
    drawn = _by_phase(len(phases), parts)
    uses = []
    for role, share in job.mixture:
        use, number = _use(plan, job, role, share, artifact), order.get(role)
        if number is not None:
            use |= {
                "planned": [phase["planned"][number] for phase in phases],
                "drawn": [_share(amounts, number) for amounts in drawn],
                "total": sum(part["drawn"][number] for part in parts),
            }
        uses.append(UseFacts(**use))
    shown = [
        PartFacts(
            phase=part["phase"],
            start=part["start"],
            shares=[_share(part["drawn"], order[role]) for role, _ in job.mixture],
        )
        for part in parts
    ]
    return MixtureFacts(
        stage=job.name, unit=kept.get("unit", ""), steps=kept.get("steps"), starts=starts, parts=shown, uses=uses
    )


def _use(plan: Plan, job: Job, role: str, share: float, artifact: Artifact) -> dict[str, Any]:
    """Rows and tokens that a training stage took from each dataset."""
    item = job.inputs[role]

    def metric(name: str) -> float | None:
        value = artifact.metrics.get(f"source_{item.job}_{name}")
        return value if isinstance(value, int | float) else None

    counts = {name: metric(name) for name in ("rows_in", "rows_used", "tokens", "documents_cut")}
    whole = {name: None if count is None else int(count) for name, count in counts.items()}
    data = plan.by_name[item.job].stage
    return whole | {"stage": job.name, "data": data, "share": share, "epochs": metric("epochs"), "cap": item.max_epochs}


def _by_phase(phases: int, parts: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """What was drawn of each dataset in each phase."""
    found: list[list[float]] = []
    for number in range(phases):
        amounts = [part["drawn"] for part in parts if part["phase"] == number]
        found.append([sum(column) for column in zip(*amounts, strict=True)] if amounts else [])
    return found


def _share(amounts: Sequence[float], number: int) -> float:
    """0 where a phase is shorter than a step."""
    total = sum(amounts)
    return amounts[number] / total if total else 0.0
