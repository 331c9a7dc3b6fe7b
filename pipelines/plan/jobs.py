"""Recipe in, ordered jobs out; every job knows its fingerprint."""

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipelines.recipe.base import ArtifactKind, Section
from pipelines.recipe.data import Dataset, Format
from pipelines.recipe.model import ModelConfig
from pipelines.recipe.stages import (
    DpoStage,
    EvaluateStage,
    PpoStage,
    PretrainStage,
    RewardStage,
    SftStage,
    StageConfig,
    TokenizerStage,
)


class DataJob(StageConfig):
    """Derived from an entry of `data`: fetch, parse, account for every row, split off the holdout."""

    produces = ArtifactKind.DATASET
    kind: Literal["data"] = "data"
    dataset: Dataset


class TokensJob(StageConfig):
    """Derived from a (dataset, tokenizer) pair: ids with document boundaries, not packed."""

    produces = ArtifactKind.TOKENS
    kind: Literal["tokens"] = "tokens"
    format: Format


JobConfig = Annotated[
    DataJob
    | TokensJob
    | TokenizerStage
    | PretrainStage
    | SftStage
    | RewardStage
    | DpoStage
    | PpoStage
    | EvaluateStage,
    Field(discriminator="kind"),
]


class Input(Section):
    """An artifact that a job reads."""

    job: str
    """Name of the job that makes it; for messages only, never part of a fingerprint."""
    fingerprint: str
    share: float | None = None
    """Its share, for one of several mixed datasets."""


class Job(Section):
    """One unit of work with everything that decides its result. A worker sees its Job and nothing else."""

    PREFIX: ClassVar[int] = 16
    """Digits of the fingerprint in a folder's name."""

    name: str
    """`pretrain`, `data-village`, `tokens-village`, `evaluate-sft`: unique in the plan, used as link and in messages."""
    stage: str
    """The recipe's stage or dataset that this job belongs to."""
    config: JobConfig
    seed: int | None
    """None where the kind draws no random numbers."""
    model: ModelConfig | None = None
    """For a pretrain job that starts from random weights."""
    files: dict[str, str] = {}
    """Local files that decide the result (absolute path -> sha256): dataset files, chat template, task files."""
    inputs: dict[str, Input] = {}
    """Role -> artifact. Roles: `dataset`, `tokenizer`, `model`, `reward_model`, `data.0`, `data.1`, ... (a mixture,
    sorted by fingerprint), and for tasks of evaluate `task.<i>.data`, `task.<i>.reward_model`, ..."""

    @property
    def kind(self) -> str:
        return self.config.kind

    @property
    def folder(self) -> str:
        """Name of the artifact's folder in the store."""
        return f"{self.kind}-{self.fingerprint[: self.PREFIX]}"

    @property
    def mixture(self) -> list[tuple[str, float]]:
        """(role, share) of every mixed dataset, in the order that decides."""
        return [(role, item.share) for role, item in self.inputs.items() if item.share is not None]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of what decides the result: the same fingerprint, the same result."""
        canonical = json.dumps(self.facts(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        """Everything that decides the result, by meaning and by reference, without names and defaults."""
        raise NotImplementedError  # filled in with the planner
