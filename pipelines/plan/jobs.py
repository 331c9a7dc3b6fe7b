"""Recipe in, ordered jobs out; every job knows the fingerprint of everything that decides its result."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipelines.errors import KeyPath, Problem, RecipeError
from pipelines.plan.files import format_of
from pipelines.plan.pins import Pins
from pipelines.recipe.base import ArtifactKind, Consumes, LocalFile, Reads, Section
from pipelines.recipe.data import MICROWORLD_VERSION, Dataset, Format
from pipelines.recipe.evaluation import REWARD_FUNCTIONS, TASKS, EvaluateStage
from pipelines.recipe.finetune import FinetuneStage
from pipelines.recipe.model import ModelConfig
from pipelines.recipe.paths import chat_template, expand
from pipelines.recipe.root import Recipe
from pipelines.recipe.stages import DpoStage, PpoStage, PretrainStage, RewardStage, SftStage, TokenizerStage
from pipelines.recipe.task_files import find_task
from pipelines.recipe.training import StageConfig
from pipelines.recipe.tree import format_path


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
    """Its share, for one of several mixed datasets."""


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
    model: ModelConfig | None = None
    """For a pretrain job that starts from random weights."""
    files: dict[str, str] = Field(default_factory=dict)
    """Local files that decide the result (absolute path -> sha256): dataset files, chat template, task files and
    their rows."""
    world: int | None = None
    """Version of the built-in world, where the job takes rows, questions or rewards from it."""
    inputs: dict[str, Input] = Field(default_factory=dict)
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
        if self.world is not None:
            facts["world"] = self.world
        if self.files:
            facts["files"] = [[format_of(path), digest] for path, digest in self.files.items()]
        if self.inputs:
            facts["inputs"] = {role: [item.fingerprint, item.share] for role, item in self.inputs.items()}
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
            lambda job: job.stage == name and job.kind not in ("data", "tokens"),
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


Digest = Callable[[Path], str]
Position = Callable[[KeyPath], tuple[str, int, int]]


def make_plan(
    recipe: Recipe,
    *,
    path: Path,
    digest: Digest,
    pins: Pins | None = None,
    position: Position | None = None,
) -> Plan:
    """Derive data and tokens, expand evaluations, order, and give every job its inputs.

    `pins` holds the commits of Hub datasets (None: they do not matter now), `position` says where a key path stands.
    """
    planner = _Planner(recipe, path, digest, pins, position or (lambda key: (str(path), 1, 1)))
    for stage in recipe.stages:
        planner.stage(stage)
    if planner.problems:
        raise RecipeError(planner.problems)
    return Plan(recipe, path, tuple(planner.jobs.values()))


class _Planner:
    """Makes each job once, after the jobs it reads."""

    def __init__(self, recipe: Recipe, path: Path, digest: Digest, pins: Pins | None, position: Position):
        self.recipe, self.path, self.digest, self.pins, self.position = recipe, path, digest, pins, position
        self.jobs: dict[str, Job] = {}
        self.problems: list[Problem] = []
        """Of files and pins, which are told all together; a fault in the structure ends the planning at once."""
        self._open: list[str] = []
        self._several_tokenizers = sum(stage.kind == "tokenizer" for stage in recipe.stages.values()) > 1

    def stage(self, name: str) -> list[Job]:
        """The jobs of a stage: one, or one per model for an evaluation."""
        config = self.recipe.stages[name]
        if isinstance(config, EvaluateStage):
            return [self._evaluation(name, config, model) for model in dict.fromkeys(config.models)]
        if name in self.jobs:
            return [self.jobs[name]]
        if name in self._open:
            raise self._problem(("stages", name), f"stages consume each other in a circle: {' -> '.join(self._open)}")
        self._open.append(name)
        inputs = self._tokenizer_inputs(config) if isinstance(config, TokenizerStage) else self._inputs(name, config)
        files = {}
        if isinstance(config, TokenizerStage):
            files = self._template(name, config.chat_template)
        elif self.recipe.model and config.max_length == self.recipe.model.max_position_embeddings:
            config = config.model_copy(update={"max_length": None})  # the default, written out
        fresh = isinstance(config, PretrainStage | FinetuneStage) and config.model is None
        self._open.remove(name)
        model = self.recipe.model if fresh else None
        reads_world = getattr(config, "reward_funcs", None) in REWARD_FUNCTIONS
        return [self._add(name, name, config, inputs, files, model, reads_world)]

    def _add(
        self,
        name: str,
        stage: str,
        config: Any,
        inputs: dict[str, Input],
        files: dict[str, str] | None = None,
        model: ModelConfig | None = None,
        reads_world: bool = False,
    ) -> Job:
        seed = None
        if config.draws:
            own = getattr(config, "seed", None)
            seed = self.recipe.seed if own is None else own
        world = MICROWORLD_VERSION if reads_world else None
        job = Job(
            name=name, stage=stage, config=config, seed=seed, model=model, files=files or {}, world=world, inputs=inputs
        )
        if self.jobs.setdefault(name, job) != job:
            key = ("stages", stage) if stage in self.recipe.stages else ("data", stage)
            raise self._problem(key, f"'{name}' is also the name of a derived job; rename one of them")
        return self.jobs[name]

    def _tokenizer_inputs(self, config: TokenizerStage) -> dict[str, Input]:
        return _mixed([(self._data(name), share) for name, share in config.data.items()])

    def _inputs(self, name: str, config: Any) -> dict[str, Input]:
        """Where weights start, the tokenizer of fresh ones, what is rewarded, and the tokens of the mixture."""
        tokenizer = self.tokenizer_of(name)
        inputs = {}
        if config.model is not None:
            inputs["model"] = _read(self.stage(config.model)[0])
        if isinstance(config, PretrainStage) or config.model is None:
            inputs["tokenizer"] = _read(self.stage(tokenizer)[0])
        if isinstance(config, PpoStage):
            inputs |= self._rewarding(("stages", name, "reward_funcs"), config.reward_funcs, tokenizer, "reward_model")
        return inputs | _mixed([(self._tokens(data, tokenizer), share) for data, share in config.data.items()])

    def _evaluation(self, name: str, config: EvaluateStage, model: str) -> Job:
        tokenizer = self.tokenizer_of(model)
        inputs = {"model": _read(self.stage(model)[0])}
        files: dict[str, str] = {}
        reads_world = any(task.reward_funcs in REWARD_FUNCTIONS for task in config.tasks)
        config = self._with_whole_paths(name, config)
        for index, task in enumerate(config.tasks):
            if task.file is not None:
                files[task.file] = self.digest(Path(task.file))
            if task.name not in TASKS and (local := find_task(task.name, self.path)):
                files |= {str(path): self.digest(path) for path in local.files}
                reads_world |= "builtin" in local.values
            if task.data is not None:
                inputs[f"task.{index}.data"] = _read(self._tokens(task.data, tokenizer))
            if task.reward_funcs is not None:
                key = ("stages", name, "tasks", index, "reward_funcs")
                inputs |= self._rewarding(key, task.reward_funcs, tokenizer, f"task.{index}.reward_model")
        config = config.model_copy(update={"models": (model,)})
        return self._add(f"{name}-{model}", name, config, inputs, files, reads_world=reads_world)

    def _with_whole_paths(self, name: str, config: EvaluateStage) -> EvaluateStage:
        """A worker does not know where the recipe lies."""
        folder, tasks = self.path.resolve().parent, []
        for index, task in enumerate(config.tasks):
            if task.file is not None and not (folder / task.file).is_file():
                self._note(("stages", name, "tasks", index, "file"), f"there is no file '{task.file}'")
                task = task.model_copy(update={"file": None})
            elif task.file is not None:
                task = task.model_copy(update={"file": str(folder / task.file)})
            tasks.append(task)
        return config.model_copy(update={"tasks": tuple(tasks)})

    def _rewarding(self, key: KeyPath, function: str, tokenizer: str, role: str) -> dict[str, Input]:
        if function in REWARD_FUNCTIONS:
            return {}
        other = self.tokenizer_of(function)
        if self.stage(other)[0].fingerprint != self.stage(tokenizer)[0].fingerprint:
            message = (
                f"reward model '{function}' reads tokens of '{other}', but what it scores is made of '{tokenizer}'"
            )
            raise self._problem(key, f"{message}; give both the same tokenizer")
        return {role: _read(self.stage(function)[0])}

    def tokenizer_of(self, name: str) -> str:
        """The tokenizer stage behind a stage: its own, that of the weights it starts from, or the only one."""
        seen = [name]
        while True:
            config: Any = self.recipe.stages[seen[-1]]
            own, start = getattr(config, "tokenizer", None), getattr(config, "model", None)
            if own is not None:
                return own
            if start is None:
                break
            if start in seen:
                raise self._problem(("stages", name), f"stages consume each other in a circle: {' -> '.join(seen)}")
            seen.append(start)
        tokenizers = [stage for stage, other in self.recipe.stages.items() if other.kind == "tokenizer"]
        if len(tokenizers) == 1:
            return tokenizers[0]
        which = f"choose one of {', '.join(tokenizers)}" if tokenizers else "add a tokenizer stage"
        raise self._problem(("stages", seen[-1]), f"needs a tokenizer; {which}")

    def _tokens(self, dataset: str, tokenizer: str) -> Job:
        name = f"tokens-{dataset}-{tokenizer}" if self._several_tokenizers else f"tokens-{dataset}"
        if name in self.jobs:
            return self.jobs[name]
        inputs = {"dataset": _read(self._data(dataset)), "tokenizer": _read(self.stage(tokenizer)[0])}
        return self._add(name, dataset, TokensJob(format=self.recipe.data[dataset].format), inputs)

    def _data(self, name: str) -> Job:
        if f"data-{name}" in self.jobs:
            return self.jobs[f"data-{name}"]
        dataset = self.recipe.data[name]
        if dataset.hub and not dataset.revision:
            dataset = self._pinned(name, dataset)
        files: dict[str, str] = {}
        for pattern, paths in expand(dataset.files, self.path.resolve().parent).items():
            if not paths:
                self._note(("data", name, "files"), f"no file matches '{pattern}'")
            files |= {str(path): self.digest(path) for path in paths}
        return self._add(f"data-{name}", name, DataJob(dataset=dataset), {}, files, reads_world=bool(dataset.builtin))

    def _pinned(self, name: str, dataset: Dataset) -> Dataset:
        if self.pins is None or dataset.hub is None:
            return dataset
        if dataset.hub not in self.pins:
            self._note(("data", name, "hub"), f"the commit of '{dataset.hub}' is not pinned yet; `make data` pins it")
            return dataset
        return dataset.model_copy(update={"revision": self.pins[dataset.hub]["revision"]})

    def _template(self, stage: str, name: str) -> dict[str, str]:
        path = chat_template(name, self.path)
        if path is None:
            key = ("stages", stage, "chat_template")
            self._note(key, f"there is no chat template '{name}', beside the recipe or in recipes/chat_templates")
            return {}
        return {str(path): self.digest(path)}

    def _note(self, key: KeyPath, message: str) -> None:
        self.problems.extend(self._problem(key, message).problems)

    def _problem(self, key: KeyPath, message: str) -> RecipeError:
        return RecipeError([Problem(*self.position(key), format_path(key), message)])


def _read(job: Job, share: float | None = None) -> Input:
    return Input(job=job.name, fingerprint=job.fingerprint, share=share)


def _mixed(parts: Sequence[tuple[Job, float]]) -> dict[str, Input]:
    """Roles of a mixture, by fingerprint: neither names nor their order in the file decide."""
    inputs = sorted((_read(job, share) for job, share in parts), key=lambda item: (item.fingerprint, item.share))
    return {f"data.{index}": item for index, item in enumerate(inputs)}
