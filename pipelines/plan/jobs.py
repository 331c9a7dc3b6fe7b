"""What a recipe is planned into: jobs, each of which knows the fingerprint of everything that decides its result."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from pipelines.errors import Problem, RecipeError
from pipelines.plan.derived import (
    BenchmarksJob,
    CleanJob,
    ContaminationJob,
    DataJob,
    ModelJob,
    TokensJob,
    VocabularyJob,
)
from pipelines.plan.files import format_of
from pipelines.recipe.base import Consumes, LocalFile, Reads, Section
from pipelines.recipe.evaluation import REWARD_FUNCTIONS, EvaluateStage
from pipelines.recipe.finetune import FinetuneStage
from pipelines.recipe.root import AnyModel, Recipe
from pipelines.recipe.stages import DpoStage, PpoStage, PretrainStage, RewardStage, SftStage, TokenizerStage

JobConfig = Annotated[
    DataJob
    | CleanJob
    | BenchmarksJob
    | ContaminationJob
    | ModelJob
    | TokensJob
    | VocabularyJob
    | TokenizerStage
    | PretrainStage
    | FinetuneStage
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
    """Its share, for one of several mixed datasets; 0 for one of later phases only."""
    later_shares: tuple[float, ...] = ()
    """In each phase after the first."""
    max_epochs: float | None = None
    """Most passes over it."""

    @classmethod
    def of(
        cls,
        job: "Job",
        share: float | None = None,
        *,
        later_shares: tuple[float, ...] = (),
        max_epochs: float | None = None,
    ) -> Self:
        """What this job makes."""
        of = {"job": job.name, "fingerprint": job.fingerprint}
        return cls(**of, share=share, later_shares=later_shares, max_epochs=max_epochs)

    def facts(self) -> list[Any]:
        """What of it decides a job's result."""
        more = {name: value for name in ("later_shares", "max_epochs") if (value := getattr(self, name))}
        return [self.fingerprint, self.share, *([more] if more else [])]


def mixed(parts: Sequence[Input]) -> dict[str, Input]:
    """Roles of a mixture, by fingerprint: neither names nor their order in the file decide."""
    inputs = sorted(parts, key=lambda item: (item.fingerprint, item.share, item.later_shares))
    return {f"data.{index}": item for index, item in enumerate(inputs)}


class Job(Section):
    """One unit of work with everything that decides its result. A worker sees its Job and nothing else."""

    PREFIX: ClassVar[int] = 16
    """Digits of the fingerprint in a folder's name."""

    name: str
    """`pretrain`, `data-village`, `tokens-village`, `evaluate-sft`: unique in the plan, for links and messages."""
    stage: str
    """The recipe's stage or dataset that this job belongs to."""
    config: JobConfig
    seed: int | None
    """None where the kind draws no random numbers."""
    model: AnyModel | None = None
    """For a training job that starts from random weights."""
    code: dict[str, str] = Field(default_factory=dict)
    """Of a model of the researcher's own: definition -> digest of its code."""
    files: dict[str, str] = Field(default_factory=dict)
    """Local files that decide the result (absolute path -> sha256): dataset files, chat template, task files and
    their rows."""
    named_files: dict[str, str] = Field(default_factory=dict)
    """Role -> which of these files it is, where a job reads several: `task.<i>.file`, `task.<i>.pairs`,
    `task.<i>.analogies`, `holdout.<i>`, `classifier.<i>`."""
    world: int | None = None
    """Version of the built-in world, where the job takes rows, questions or rewards from it."""
    inputs: dict[str, Input] = Field(default_factory=dict)
    """Role -> artifact. Roles: `dataset`, `tokenizer`, `model`, `reward_model`, `data.0`, `data.1`, ... (a mixture,
    sorted by fingerprint), for cleaning `earlier.0`, ... and `later.0`, ... (datasets above and below, in the recipe's
    order) and `benchmarks` (their questions), for quality filters `reference` and `classifier`, and for tasks
    `task.<i>.data`, `task.<i>.reward_model`, ... Where a role is an adapter, `<role>.base` is the full model that it
    belongs to."""

    @property
    def kind(self) -> str:
        return self.config.kind

    @property
    def folder(self) -> str:
        """Name of the artifact's folder in the store."""
        return f"{self.kind}-{self.fingerprint[: self.PREFIX]}"

    @property
    def base(self) -> Input | None:
        """Of a job that makes an adapter: the full model without which the adapter is nothing."""
        if getattr(self.config, "peft", None) is None:
            return None
        return self.inputs.get("model.base", self.inputs["model"])

    @property
    def mixture(self) -> list[tuple[str, float]]:
        """(role, share) of every mixed dataset, in the order that decides."""
        return [(role, item.share) for role, item in self.inputs.items() if item.share is not None]

    def spoken(self, of: str) -> str:
        """What a person calls a role of this job's inputs, or one's holdout (`earlier.0/holdout`)."""
        role, _, holdout = of.partition("/")
        if role == "dataset":
            return "its holdout" if holdout else "itself"
        if role not in self.inputs:
            return of
        name = self.inputs[role].job.split("-", 1)[-1]  # clean-books, data-books
        return f"the holdout of {name}" if holdout else name

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of what decides the result: the same fingerprint, the same result."""
        canonical = json.dumps(self.facts(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        """Everything that decides the result, by meaning and by reference, without names and defaults.

        What is empty is left out, so that a fact invented later changes no fingerprint of today.
        """
        config = _meaning(self.config)
        config = {key: value for key, value in config.items() if key not in ("kind", "seed")}
        facts: dict[str, Any] = {"kind": self.kind, "version": self.config.version, "config": config}
        if self.config.draws:
            facts["seed"] = self.seed
        if self.model is not None:
            facts["model"] = self.model.meaning()
        if self.code:
            facts["code"] = self.code
        if self.world is not None:
            facts["world"] = self.world
        if self.files:
            facts["files"] = [[format_of(path), digest] for path, digest in self.files.items()]
        if self.named_files:
            facts["named_files"] = {role: self.files[path] for role, path in self.named_files.items()}
        if self.inputs:
            facts["inputs"] = {role: item.facts() for role, item in self.inputs.items()}
        return facts


def _meaning(section: Section) -> dict[str, Any]:
    """`section.meaning()` without references, at every depth: those enter as inputs and files."""
    values = section.meaning()
    references = {field for mark in (Consumes, Reads, LocalFile) for field, _ in section.marked(mark)}
    for field in list(values):
        value = getattr(section, field)
        if field in references and value not in REWARD_FUNCTIONS:
            del values[field]
        elif isinstance(value, Section) and isinstance(values[field], dict):
            values[field] = _meaning(value)
        elif isinstance(value, tuple) and value and all(isinstance(item, Section) for item in value):
            values[field] = [_meaning(item) for item in value]
    return values


@dataclass(frozen=True)
class Plan:
    """The jobs of a recipe, each after those it reads."""

    recipe: Recipe
    path: Path
    """The recipe's file; paths inside it are relative to its folder."""
    jobs: tuple[Job, ...]

    @cached_property
    def by_name(self) -> dict[str, Job]:
        return {job.name: job for job in self.jobs}

    @cached_property
    def by_fingerprint(self) -> dict[str, Job]:
        return {job.fingerprint: job for job in reversed(self.jobs)}

    def sources(self, job: Job) -> dict[str, Job]:
        """Role -> the job that makes this input."""
        return {role: self.by_name[item.job] for role, item in job.inputs.items()}

    def named(self, name: str) -> tuple[Job, ...]:
        """The jobs that a name stands for: a job, a stage, a dataset or a kind of stage."""
        for belongs in (
            lambda job: job.name == name,
            lambda job: job.stage == name and job.kind not in ("data", "clean", "contamination", "tokens"),
            lambda job: job.kind == name,
            lambda job: job.stage == name,
        ):
            found = tuple(job for job in self.jobs if belongs(job))
            if found:
                return found
        names = sorted({job.stage for job in self.jobs} | {job.name for job in self.jobs})
        close = get_close_matches(name, names, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else f"; there are {', '.join(self.recipe.stages)}"
        raise RecipeError([Problem(str(self.path), 1, 1, "stages", f"there is no stage '{name}'{hint}")])
