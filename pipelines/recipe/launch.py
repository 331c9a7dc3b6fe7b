"""Chapter `launch`: where and how wide to run. Nothing here may change what is computed."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from pipelines.recipe.base import Name, Section


class StageLaunch(Section):
    """Launch settings of one stage, laid over the common ones."""

    config: Name | None = None
    """A file of recipes/accelerate, without .yaml."""
    micro_batch_size: PositiveInt | None = None
    """Sequences per forward pass and process."""
    checkpoint_every: PositiveInt | None = None
    """Optimizer steps between two resumable checkpoints."""
    evaluate_every: PositiveInt | None = None
    """Optimizer steps between two evaluations on the holdout."""
    activation_checkpointing: bool | None = None
    """Compute activations again in the backward pass instead of keeping them."""

    @model_validator(mode="before")
    @classmethod
    def _bare_config(cls, value: Any) -> Any:
        return {"config": value} if isinstance(value, str) else value


class Launch(Section):
    """Where and how wide. May be written as the bare name of an Accelerate file: `launch: gpu-8`."""

    config: Name = "cpu"
    """A file of recipes/accelerate in Accelerate's own format, without .yaml."""
    micro_batch_size: PositiveInt | None = None
    """Sequences per forward pass and process; accumulation makes up the rest of global_batch_size.
    Default: the whole share of a process at once."""
    checkpoint_every: PositiveInt = 500
    """Optimizer steps between two resumable checkpoints."""
    evaluate_every: PositiveInt | None = None
    """Optimizer steps between two evaluations on the holdout. Default: only at the end."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""
    workers: PositiveInt | None = None
    """Processes that read, clean and encode data on this machine. Default: one for each core."""
    engine: Literal["local", "ray"] = "local"
    """Where they are: local, or ray, a cluster that RAY_ADDRESS names (`pip install '.[ray]'`); its machines share the
    store's file system."""
    stages: Annotated[dict[str, StageLaunch], Field(default_factory=dict)]
    """Settings of single stages, by name."""

    @model_validator(mode="before")
    @classmethod
    def _bare_config(cls, value: Any) -> Any:
        return {"config": value} if isinstance(value, str) else value

    def of(self, stage: str) -> "Launch":
        """The settings of one stage: the common ones, with its own laid over them."""
        own = self.stages.get(stage, StageLaunch()).model_dump(exclude_none=True)
        return self.model_copy(update=own | {"stages": {}})
