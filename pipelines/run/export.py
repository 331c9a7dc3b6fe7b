"""From a stage's name to a folder that other tools read: which artifact, and what of the recipe is in the way."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import ArtifactError, KeyPath, Problem, RecipeError
from pipelines.plan.jobs import Job, Plan
from pipelines.recipe.base import LANGUAGE_MODELS, ArtifactKind
from pipelines.recipe.tree import format_path
from pipelines.store.artifacts import Artifact, ArtifactStore, survey

if TYPE_CHECKING:
    from pipelines.training.export import Exported

Position = Callable[[KeyPath], tuple[str, int, int]]
MODELS = (*LANGUAGE_MODELS, ArtifactKind.CLASSIFIER, ArtifactKind.REWARD_MODEL)
"""What can leave."""


def export(plan: Plan, store: ArtifactStore, position: Position, *, stage: str, to: Path, stock: bool) -> "Exported":
    """Export the finished model of a stage. RecipeError names every field that a stock class has no place for."""
    store.require()
    if to.resolve().is_relative_to(store.root):
        raise ArtifactError(f"{to}: is in {store.root}, which keeps finished work; choose a folder elsewhere")
    job, artifact, base = _finished(plan, store, position, stage)
    # Torch is wanted from here on, by nothing that only looks.
    from custom_models.stock_fields import NoPlace
    from pipelines.training.export import export_model

    facts = {"recipe": plan.recipe.name, "stage": job.name, "fingerprint": job.fingerprint}
    try:
        return export_model(artifact.output, to, stock=stock, facts=facts, base=base.output if base else None)
    except NoPlace as error:
        fields = [reason.partition(": ") for reason in error.reasons]
    problems = [
        Problem(
            *position(("model", field)), f"model.{field}", f"{message}; --format ours writes the model with its code"
        )
        for field, _, message in fields
    ]
    raise RecipeError(problems)


def _finished(
    plan: Plan, store: ArtifactStore, position: Position, stage: str
) -> tuple[Job, Artifact, Artifact | None]:
    """(job, what it left, and of an adapter the full model that it belongs to)"""
    jobs = [job for job in plan.named(stage) if job.config.produces in MODELS]
    if len(jobs) != 1:
        message = f"is {len(jobs)} stages ({', '.join(job.name for job in jobs)}); name one of them"
        key = ("stages", stage)
        fault = message if jobs else "makes no model that can be exported"
        raise RecipeError([Problem(*position(key), format_path(key), fault)])
    states, adapted = survey(plan, store), jobs[0].base
    artifact = states[jobs[0].name].artifact
    base = states[adapted.job].artifact if adapted is not None else None
    if artifact is None or (adapted is not None and base is None):
        raise ArtifactError(f"'{stage}' is not finished as {plan.path} has it; run it first (--stage {stage})")
    for one in (artifact, base):
        if one is not None:
            store.verify(one)
    return jobs[0], artifact, base
