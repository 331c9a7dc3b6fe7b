"""What the report says of benchmark questions in training data."""

import json
from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ConfigDict

from pipelines.plan.jobs import Plan
from pipelines.store.artifacts import Artifact

FILE = "contamination.json"


class TaskContamination(BaseModel):
    """What a dataset has of one task."""

    model_config = ConfigDict(frozen=True)

    task: str
    questions: int
    too_short: int
    """Questions of so few words that they are not looked for."""
    found: int
    """Questions that stand in training rows."""
    phrases: int
    """Questions that only share what many rows have, and are not counted as found."""
    documents: int
    """Training rows that have such a question."""
    holdout_documents: int | None
    """The same of its holdout; None where the task asks that holdout."""

    @property
    def tells(self) -> bool:
        """Whether there is more to say than that nothing was found."""
        return bool(self.found or self.phrases or self.holdout_documents)


class ContaminationFacts(BaseModel):
    """What became of the benchmarks' questions in one dataset."""

    model_config = ConfigDict(frozen=True)

    data: str
    action: str
    """drop | tell"""
    ngram: int
    contaminated: int
    """Training rows with a question of any task."""
    tasks: list[TaskContamination]

    @property
    def fate(self) -> str:
        """What was done with these rows."""
        return "dropped" if self.action == "drop" else "told"


def contamination(plan: Plan, done: Mapping[str, Artifact]) -> list[ContaminationFacts]:
    """Of every dataset that was looked through."""
    return list(_facts(plan, done))


def _facts(plan: Plan, done: Mapping[str, Artifact]) -> Iterator[ContaminationFacts]:
    for job in plan.jobs:
        if job.kind not in ("clean", "contamination") or job.name not in done:
            continue
        path = done[job.name].output / FILE
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            known = {name: value for name, value in found.items() if name in ContaminationFacts.model_fields}
            yield ContaminationFacts.model_validate({"data": job.stage} | known)


def not_looked_for(facts: list[ContaminationFacts]) -> dict[str, tuple[int, int]]:
    """Task -> (questions that are too short to be looked for, all), where there are some."""
    tasks = {task.task: (task.too_short, task.questions) for one in facts for task in one.tasks}
    return {name: counts for name, counts in tasks.items() if counts[0]}
