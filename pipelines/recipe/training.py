"""What every stage has, what every training stage has, and what those have that start from another's weights."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from pipelines.recipe.base import ArtifactKind, CausalLMRef, Duration, Section
from pipelines.recipe.peft import PeftConfig

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class StageConfig(Section):
    """What every stage has."""

    produces: ClassVar[ArtifactKind]
    """What it leaves; `pipelines.recipe.kinds` knows better where that depends on more than the kind of stage."""
    version: ClassVar[int] = 1
    """Raise it when the same config would now give another result: every old artifact of this kind turns stale."""
    draws: ClassVar[bool] = False
    """Whether the kind draws random numbers, so that the seed decides its result."""


def _refuse_fp16(value: Any) -> Any:
    if value == "fp16":
        raise ValueError(
            "fp16 needs a loss scaler whose infinite gradients are normal, and here a non-finite gradient stops the "
            "run; use bf16, or no"
        )
    return value


class TrainStage(StageConfig):
    """Fields that every training stage shares."""

    draws = True
    duration: Duration
    """`600M tokens`, `2 epochs`, `300 steps`; ppo also `300 rollouts`."""
    global_batch_size: PositiveInt
    """Sequences (pairs, completions) per optimizer step over all processes, on whatever machine."""
    max_length: PositiveInt | None = None
    """Longest sequence in tokens. Default: the model's max_position_embeddings."""
    learning_rate: PositiveFloat
    """Peak learning rate; with muon that of the matrices inside blocks."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw (arXiv 1711.05101), or muon for matrices with adamw for embeddings, norms and heads."""
    adamw_learning_rate: PositiveFloat | None = None
    """With muon: peak rate of embeddings, norms and heads. Default: 0.15 times learning_rate."""
    adam_beta1: Fraction = 0.9
    """Decay of the first moment."""
    adam_beta2: Fraction = 0.999
    """Decay of the second moment."""
    adam_epsilon: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    muon_momentum: Fraction = 0.95
    """Momentum of muon."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay of matrices and embeddings; norms and biases have none."""
    lr_scheduler_type: Literal["constant", "linear", "cosine", "inverse_sqrt", "wsd"] = "linear"
    """Shape of the learning rate after the warm-up; wsd: constant, then a linear decay over the last decay_steps."""
    warmup_steps: NonNegativeFloat = 0
    """Steps of linear warm-up; below 1 it is a share of all steps."""
    decay_steps: PositiveFloat | None = None
    """wsd only: steps of the final decay; below 1 a share of all steps. Default: 0.2."""
    min_lr_rate: Fraction = 0.0
    """Learning rate at the end, as a share of the peak (linear, cosine, wsd)."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Clip the gradient's global norm to this; 0 turns clipping off."""
    mixed_precision: Annotated[Literal["no", "bf16"], BeforeValidator(_refuse_fp16)] = "no"
    """bf16 computes in bfloat16 over float32 master weights."""
    seed: int | None = None
    """This stage's own seed. Default: the recipe's."""

    def faults(self) -> Iterator[str]:
        for name in ("warmup_steps", "decay_steps"):
            steps = getattr(self, name)
            if steps is not None and steps >= 1 and steps != int(steps):
                yield f"{name}: {steps} is neither whole steps nor a share below 1"
        if self.adamw_learning_rate is not None and self.optimizer != "muon":
            yield "adamw_learning_rate belongs to optimizer: muon; adamw uses learning_rate"
        if self.decay_steps is not None and self.lr_scheduler_type != "wsd":
            yield "decay_steps belongs to lr_scheduler_type: wsd"
        if self.min_lr_rate and self.lr_scheduler_type in ("constant", "inverse_sqrt"):
            yield f"min_lr_rate has no meaning with lr_scheduler_type: {self.lr_scheduler_type}"


def no_rollouts(duration: Duration) -> Duration:
    return duration.only("tokens", "steps", "epochs")


def no_tokens(duration: Duration) -> Duration:
    return duration.only("steps", "epochs")


Overlong = Literal["drop", "truncate"]


class FromModelStage(TrainStage):
    """A training stage that starts from another stage's weights."""

    model: CausalLMRef
    """The stage whose weights this one starts from, or {hub: org/name} or {path: folder}."""
    duration: Annotated[Duration, AfterValidator(no_tokens)]
    overlong: Overlong = "drop"
    """A row longer than max_length is dropped and counted, or its end is cut off and counted."""
    max_dropped: Fraction = 0.01
    """Share of rows that may be dropped before the stage stops."""
    peft: PeftConfig | None = None
    """Train a low-rank adapter on the frozen weights, for example {r: 16}; null trains all weights."""

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if self.peft is not None and self.optimizer == "muon":
            yield (
                "optimizer: muon makes all directions of an update equally long, which the thin matrices of peft are "
                "not meant for; use adamw"
            )

    def _refuse_lora_dropout(self) -> Iterator[str]:
        if self.peft is not None and self.peft.lora_dropout:
            yield (
                f"peft: lora_dropout {self.peft.lora_dropout} has no meaning here: policy and reference are compared "
                "without dropout; remove it"
            )
