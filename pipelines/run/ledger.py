"""From a stage's name and a step to the documents of its batch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import ArtifactError, KeyPath, Problem, RecipeError
from pipelines.plan.jobs import Plan
from pipelines.plan.uses import starts_outside
from pipelines.recipe.stages import PretrainStage
from pipelines.recipe.tree import format_path
from pipelines.store.artifacts import ArtifactStore, survey

if TYPE_CHECKING:
    from pipelines.training.ledger import Step

Position = Callable[[KeyPath], tuple[str, int, int]]


def ledger(plan: Plan, store: ArtifactStore, position: Position, *, stage: str, step: int) -> "Step":
    """The batch of a step, before, during or after the run: it needs the tokens only."""
    jobs = [job for job in plan.named(stage) if isinstance(job.config, PretrainStage)]
    key: KeyPath = ("stages", stage)
    if len(jobs) != 1:
        message = "is no pretrain stage" if not jobs else f"is {len(jobs)} stages; name one of them"
        raise RecipeError([Problem(*position(key), format_path(key), message)])
    (job,) = jobs
    assert isinstance(job.config, PretrainStage)
    model = None if starts_outside(plan.recipe, job.stage) else plan.recipe.model
    max_length = job.config.max_length or (model.max_position_embeddings if model else None)
    if max_length is None:
        message = "goes on from a model made elsewhere; give it a max_length, without which its rows are not known"
        raise RecipeError([Problem(*position(key), format_path(key), message)])
    store.require()
    states = survey(plan, store)

    def folder(name: str) -> Path:
        artifact = states[name].artifact
        if artifact is None:
            raise ArtifactError(f"'{name}' is not finished, and the ledger of '{stage}' needs it; run it first")
        return artifact.output

    roles = ["tokenizer", *(role for role, _ in job.mixture)]
    inputs = {role: folder(job.inputs[role].job) for role in roles}
    data = {role: folder(plan.by_name[job.inputs[role].job].inputs["dataset"].job) for role, _ in job.mixture}
    # Torch is wanted from here on, by nothing that only looks.
    from pipelines.training.ledger import step_of

    return step_of(job, inputs, data, max_length=max_length, step=step)


def as_text(step: "Step") -> str:
    """A line for each piece of a document."""
    lines = [f"step {step.step:,} of {step.steps:,}: row, dataset, document, tokens of it, how it begins"]
    for piece in step.pieces:
        place = f"{piece.row:>4}  {piece.data}  #{piece.document:,}  {piece.start:,}-{piece.stop:,}"
        lines.append(f"{place}  {json.dumps(piece.text, ensure_ascii=False)}")
    epochs = ", ".join(f"{name} {value:g}" for name, value in step.epochs.items())
    return "\n".join([*lines, f"epochs by the end: {epochs}"])
