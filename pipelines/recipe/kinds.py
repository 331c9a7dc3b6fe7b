"""What the stages of a recipe make, where it depends on more than their kind: objectives, tasks, architectures."""

from collections.abc import Mapping

from pipelines.recipe.base import ArtifactKind, OutsideModel
from pipelines.recipe.finetune import FinetuneStage
from pipelines.recipe.model import ModelConfig
from pipelines.recipe.own_model import OwnModel
from pipelines.recipe.stages import PretrainStage
from pipelines.recipe.training import FromModelStage, StageConfig

BY_OBJECTIVE = {
    "causal_lm": ArtifactKind.CAUSAL_LM,
    "prefix_lm": ArtifactKind.CAUSAL_LM,
    "masked_lm": ArtifactKind.MASKED_LM,
    "span_corruption": ArtifactKind.SEQ2SEQ_LM,
}
ARCHITECTURES = {
    "decoder": ArtifactKind.CAUSAL_LM,
    "encoder": ArtifactKind.MASKED_LM,
    "encoder_decoder": ArtifactKind.SEQ2SEQ_LM,
}
"""What pretraining makes of each."""


def made_by(
    name: object, stages: Mapping[str, StageConfig], model: ModelConfig | OwnModel | None, seen: tuple[object, ...] = ()
) -> ArtifactKind | None:
    """What a stage of this name makes; None where there is none, or what it says of that is no good."""
    stage = stages.get(name) if isinstance(name, str) and name not in seen else None
    if isinstance(stage, PretrainStage):
        return BY_OBJECTIVE.get(stage.__dict__.get("objective", ""))
    if isinstance(stage, FinetuneStage) and stage.__dict__.get("task") != "classification":
        if "task" not in stage.__dict__ or "model" not in stage.__dict__:
            return None
        if isinstance(stage.model, OutsideModel):
            return ArtifactKind.CAUSAL_LM
        if stage.model is not None:
            return made_by(stage.model, stages, model, (*seen, name))
        return None if model is None else ARCHITECTURES.get(model.__dict__.get("architecture", ""))
    return stage.produces if stage is not None else None


def architecture_of(
    stage: StageConfig,
    stages: Mapping[str, StageConfig],
    model: ModelConfig | OwnModel | None,
    seen: tuple[object, ...] = (),
) -> str | None:
    """Of the transformer that a stage trains; None where it is not known."""
    if not isinstance(stage, PretrainStage | FromModelStage) or "model" not in stage.__dict__:
        return None
    if stage.model is None:
        return None if model is None else model.__dict__.get("architecture")
    if isinstance(stage.model, OutsideModel):
        return "decoder"
    parent = stages.get(stage.model)
    if parent is None or stage.model in seen:
        return None
    return architecture_of(parent, stages, model, (*seen, stage.model))
