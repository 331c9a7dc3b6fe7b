"""What stages make and start from, where it depends on more than their kind: objectives, tasks, architectures."""

from pipelines.recipe.base import LANGUAGE_MODELS, ArtifactKind, Consumes, OutsideModel
from pipelines.recipe.evaluation import EvaluateStage, task_kind
from pipelines.recipe.finetune import FinetuneStage
from pipelines.recipe.outline import Outline, given
from pipelines.recipe.stages import PretrainStage
from pipelines.recipe.training import FromModelStage, StageConfig

BY_OBJECTIVE = {
    "causal_lm": ArtifactKind.CAUSAL_LM,
    "prefix_lm": ArtifactKind.CAUSAL_LM,
    "masked_lm": ArtifactKind.MASKED_LM,
    "span_corruption": ArtifactKind.SEQ2SEQ_LM,
}
BY_TASK = {
    "classification": (ArtifactKind.CAUSAL_LM, ArtifactKind.MASKED_LM),
    "seq2seq": (ArtifactKind.CAUSAL_LM, ArtifactKind.SEQ2SEQ_LM),
}
ARCHITECTURES = {
    "decoder": ArtifactKind.CAUSAL_LM,
    "encoder": ArtifactKind.MASKED_LM,
    "encoder_decoder": ArtifactKind.SEQ2SEQ_LM,
}
"""What pretraining makes of each."""


def made_by(name: object, outline: Outline, seen: tuple[object, ...] = ()) -> ArtifactKind | None:
    """What a stage of this name makes, or a model made elsewhere is; None where there is none, or what it says of that
    is no good or not here."""
    if isinstance(name, OutsideModel):
        return outline.kind_of(name)
    stage = outline.stages.get(name) if isinstance(name, str) and name not in seen else None
    if isinstance(stage, PretrainStage):
        return BY_OBJECTIVE.get(stage.__dict__.get("objective", ""))
    if isinstance(stage, FinetuneStage) and stage.__dict__.get("task") != "classification":
        if "task" not in stage.__dict__ or "model" not in stage.__dict__:
            return None
        if stage.model is not None:
            return made_by(stage.model, outline, (*seen, name))
        return None if outline.model is None else ARCHITECTURES.get(outline.model.__dict__.get("architecture", ""))
    return stage.produces if stage is not None else None


def architecture_of(stage: StageConfig, outline: Outline, seen: tuple[object, ...] = ()) -> str | None:
    """Of the transformer that a stage trains; None where it is not known."""
    if not isinstance(stage, PretrainStage | FromModelStage) or "model" not in stage.__dict__:
        return None
    if stage.model is None:
        return None if outline.model is None else outline.model.__dict__.get("architecture")
    if isinstance(stage.model, OutsideModel):
        kind = outline.kind_of(stage.model)
        return next((name for name, made in ARCHITECTURES.items() if made == kind), None)
    parent = outline.stages.get(stage.model)
    if parent is None or stage.model in seen:
        return None
    return architecture_of(parent, outline, (*seen, stage.model))


def outside_start(name: object, outline: Outline, seen: tuple[object, ...] = ()) -> OutsideModel | None:
    """The model made elsewhere that the weights of a stage come from, through whatever stages."""
    if isinstance(name, OutsideModel):
        return name
    stage = outline.stages.get(name) if isinstance(name, str) and name not in seen else None
    return None if stage is None else outside_start(given(stage, "model"), outline, (*seen, name))


def starts_from(stage: object) -> tuple[ArtifactKind, ...]:
    """What the model may be that a stage starts from, or scores."""
    if isinstance(stage, PretrainStage):
        return (BY_OBJECTIVE[stage.objective],)
    if isinstance(stage, FinetuneStage):
        return BY_TASK[stage.task]
    if isinstance(stage, EvaluateStage):
        able = [task_kind(task.name).models for task in stage.tasks]
        return tuple(kind for kind in ArtifactKind if all(kind in kinds for kinds in able))
    if isinstance(stage, FromModelStage):
        return next(consumes.kinds for field, consumes in type(stage).marked(Consumes) if field == "model")
    return LANGUAGE_MODELS
