"""Recipe in, ordered jobs out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pipelines.errors import KeyPath, Problem, RecipeError
from pipelines.plan.benchmarks import asked_by
from pipelines.plan.derived import (
    CleanJob,
    ContaminationJob,
    DataJob,
    ModelJob,
    Source,
    TokensJob,
    VocabularyJob,
    compared_with,
    first_user,
    outside_models,
    starts_outside,
    uses_of,
)
from pipelines.plan.files import dataset_files
from pipelines.plan.jobs import Input, Job, Plan, mixed
from pipelines.plan.pins import Pins, model_key
from pipelines.recipe.base import OutsideModel
from pipelines.recipe.data import CLEANING, MICROWORLD_VERSION, TRACK_VERSIONS, Dataset
from pipelines.recipe.evaluation import REWARD_FUNCTIONS, TASKS, EvaluateStage
from pipelines.recipe.finetune import FinetuneStage
from pipelines.recipe.model import ModelConfig
from pipelines.recipe.own_model import OwnModel, definitions_of
from pipelines.recipe.paths import chat_template, model_files, tokenizer_files
from pipelines.recipe.root import Recipe
from pipelines.recipe.stages import PpoStage, PretrainStage, TokenizerStage
from pipelines.recipe.task_files import find_task
from pipelines.recipe.tokenizer import Reference
from pipelines.recipe.tree import format_path
from pipelines.recipe.word_files import word_files

Digest = Callable[[Path], str]
Position = Callable[[KeyPath], tuple[str, int, int]]
R = TypeVar("R", bound=Reference)


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
        planner.vocabulary(stage)
    for dataset in recipe.data:
        planner.contamination(dataset)
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
        own = {name for name, stage in recipe.stages.items() if stage.kind == "tokenizer"}
        self._several_tokenizers = len(own | {model.job for model in outside_models(recipe)}) > 1

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
            if config.source is not None:
                source, found = self._reference(("stages", name, "source"), config.source)
                config, files = config.model_copy(update={"source": source}), files | found
        elif (
            self.recipe.model
            and not starts_outside(self.recipe, name)
            and config.max_length == self.recipe.model.max_position_embeddings
        ):
            config = config.model_copy(update={"max_length": None})  # the default, written out
        fresh = isinstance(config, PretrainStage | FinetuneStage) and config.model is None
        self._open.remove(name)
        model = self.recipe.model if fresh else None
        world = MICROWORLD_VERSION if getattr(config, "reward_funcs", None) in REWARD_FUNCTIONS else None
        return [self._add(name, name, config, inputs, files, model, world)]

    def _add(
        self,
        name: str,
        stage: str,
        config: Any,
        inputs: dict[str, Input],
        files: dict[str, str] | None = None,
        model: ModelConfig | OwnModel | None = None,
        world: int | None = None,
        named_files: dict[str, str] | None = None,
    ) -> Job:
        seed = None
        if config.draws:
            own = getattr(config, "seed", None)
            seed = self.recipe.seed if own is None else own
        job = Job(
            name=name,
            stage=stage,
            config=config,
            seed=seed,
            model=model,
            files=files or {},
            named_files=named_files or {},
            world=world,
            inputs=inputs,
        )
        if isinstance(model, OwnModel):
            job = job.model_copy(update=self._own(model))
        if self.jobs.setdefault(name, job) != job:
            key = ("stages", stage) if stage in self.recipe.stages else ("data", stage)
            raise self._problem(key, f"'{name}' is also the name of a derived job; rename one of them")
        return self.jobs[name]

    def _own(self, model: OwnModel) -> dict[str, Any]:
        """The code of a model of the researcher's own, which the worker is to find wherever it runs."""
        file = (self.path.resolve().parent / model.python).resolve()
        return {"model": model.model_copy(update={"python": str(file)}), "code": definitions_of(file)}

    def _tokenizer_inputs(self, config: TokenizerStage) -> dict[str, Input]:
        if config.source is not None:
            return {}
        return self._datasets(config)

    def _datasets(self, config: TokenizerStage) -> dict[str, Input]:
        return mixed([Input.of(self._dataset(name), share) for name, share in (config.data or {}).items()])

    def vocabulary(self, name: str) -> None:
        """The job that measures a tokenizer beside others, where its stage names some."""
        stage = self.recipe.stages[name]
        if not isinstance(stage, TokenizerStage) or not stage.data:
            return
        if not (stage.compare or stage.sweep or stage.source):
            return
        references, files, named = [], dict[str, str](), dict[str, str]()
        for index, reference in enumerate(stage.compare):
            found, of_it = self._reference(("stages", name, "compare", index), reference)
            references.append(found)
            files |= of_it
            named |= {f"compare.{index}.{number}": path for number, path in enumerate(of_it)}
        config = VocabularyJob(tokenizer=stage, compare=tuple(references), sweep=stage.sweep)
        inputs = {"tokenizer": Input.of(self.stage(name)[0])} | self._datasets(stage)
        self._add(f"vocabulary-{name}", name, config, inputs, files, named_files=named)

    def _reference(self, key: KeyPath, reference: R) -> tuple[R, dict[str, str]]:
        """A tokenizer made elsewhere with its commit or its whole path, and its files."""
        if reference.path is not None:
            path = self.path.resolve().parent / reference.path
            files = {str(file): self.digest(file) for file in tokenizer_files(path)}
            if not files:
                self._note((*key, "path"), f"'{reference.path}' is neither a folder with tokenizer.json nor a file")
            return reference.model_copy(update={"path": str(path)}), files
        if reference.revision or self.pins is None:
            return reference, {}
        pinned = self.pins.get(model_key(reference.hub or ""))
        if pinned is None:
            self._note(key, f"the commit of '{reference}' is not pinned yet; `make data` pins it")
            return reference, {}
        return reference.model_copy(update={"revision": pinned["revision"]}), {}

    def _inputs(self, name: str, config: Any) -> dict[str, Input]:
        """Where weights start, the tokenizer of fresh ones, what is rewarded, and the tokens of the mixture."""
        tokenizer = self.tokenizer_of(name)
        inputs: dict[str, Input] = {}
        if config.model is not None:
            inputs |= self._weights("model", config.model)
        if isinstance(config, PretrainStage) or config.model is None:
            inputs["tokenizer"] = Input.of(self._source(tokenizer))
        if isinstance(config, PpoStage):
            inputs |= self._rewarding(("stages", name, "reward_funcs"), config.reward_funcs, tokenizer, "reward_model")
        return inputs | mixed(self._mixture(config, tokenizer))

    def _mixture(self, config: Any, tokenizer: Source) -> list[Input]:
        """Every dataset that is mixed, with its share in each phase."""
        phases = [phase.data for phase in getattr(config, "phases", ())]
        caps = getattr(config, "max_epochs", {})
        return [
            Input.of(
                self._tokens(data, tokenizer),
                config.data.get(data, 0.0),
                later_shares=tuple(mixture.get(data, 0.0) for mixture in phases),
                max_epochs=caps.get(data),
            )
            for data in dict.fromkeys(name for mixture in [config.data, *phases] for name in mixture)
        ]

    def _evaluation(self, name: str, config: EvaluateStage, model: Source) -> Job:
        tokenizer = self.tokenizer_of(model)
        start = self._source(model)
        inputs = self._weights("model", model)
        files, named = dict[str, str](), dict[str, str]()
        config = self._with_whole_paths(name, config)
        reads_world = any(task.reward_funcs in REWARD_FUNCTIONS for task in config.tasks)
        for index, task in enumerate(config.tasks):
            if task.file is not None:
                files[task.file] = self.digest(Path(task.file))
            if task.name not in TASKS and (local := find_task(task.name, self.path)):
                files |= {str(path): self.digest(path) for path in local.files}
                reads_world |= "builtin" in local.values
            for field, path in word_files(task.pairs, task.analogies, self.path).items():
                files[str(path)] = self.digest(path)
                named[f"task.{index}.{field}"] = str(path)
            if task.data is not None:
                inputs[f"task.{index}.data"] = Input.of(self._tokens(task.data, tokenizer))
            if task.reward_funcs is not None:
                key = ("stages", name, "tasks", index, "reward_funcs")
                inputs |= self._rewarding(key, task.reward_funcs, tokenizer, f"task.{index}.reward_model")
        config = config.model_copy(update={"models": (model,)})
        world = MICROWORLD_VERSION if reads_world else None
        return self._add(f"{name}-{start.name}", name, config, inputs, files, None, world, named)

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

    def _rewarding(self, key: KeyPath, function: str, tokenizer: Source, role: str) -> dict[str, Input]:
        if function in REWARD_FUNCTIONS:
            return {}
        other = self.tokenizer_of(function)
        if self._source(other).fingerprint != self._source(tokenizer).fingerprint:
            message = (
                f"reward model '{function}' reads tokens of '{other}', but what it scores is made of '{tokenizer}'"
            )
            raise self._problem(key, f"{message}; give both the same tokenizer")
        return self._weights(role, function)

    def _weights(self, role: str, source: Source) -> dict[str, Input]:
        """A model to start from or to ask; of an adapter also the full model that it belongs to."""
        job = self._source(source)
        return {role: Input.of(job)} | ({f"{role}.base": job.base} if job.base else {})

    def tokenizer_of(self, name: Source) -> Source:
        """The tokenizer behind a stage: its own, that of the weights it starts from, or the only stage's. A model made
        elsewhere has its own."""
        if isinstance(name, OutsideModel):
            return name
        seen = [name]
        while True:
            config: Any = self.recipe.stages[seen[-1]]
            own, start = getattr(config, "tokenizer", None), getattr(config, "model", None)
            if own is not None:
                return own
            if isinstance(start, OutsideModel):
                return start
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

    def _source(self, source: Source) -> Job:
        """The job that makes a model or a tokenizer."""
        if isinstance(source, str):
            return self.stage(source)[0]
        model, files = source, {}
        if model.path is not None:
            files = {str(path): self.digest(path) for path in model_files(self.path.resolve().parent / model.path)}
        elif not model.revision and self.pins is not None:
            pinned = self.pins.get(model_key(model.hub or ""))
            if pinned is None:
                key = ("stages", first_user(self.recipe, model))
                self._note(key, f"the commit of '{model}' is not pinned yet; `make data` pins it")
            else:
                model = model.model_copy(update={"revision": pinned["revision"]})
        return self._add(source.job, source.job, ModelJob(model=model, uses=uses_of(self.recipe, source)), {}, files)

    def _tokens(self, dataset: str, tokenizer: Source) -> Job:
        made_by = self._source(tokenizer)
        name = f"tokens-{dataset}-{made_by.name}" if self._several_tokenizers else f"tokens-{dataset}"
        if name in self.jobs:
            return self.jobs[name]
        inputs = {"dataset": Input.of(self._dataset(dataset)), "tokenizer": Input.of(made_by)}
        return self._add(name, dataset, TokensJob(format=self.recipe.data[dataset].format), inputs)

    def _dataset(self, name: str) -> Job:
        """The job whose rows others read: that of the data, or one that cleans them after it."""
        dataset, data = self.recipe.data[name], self._data(name)
        asked = dataset.decontaminate if dataset.decontaminate and dataset.decontaminate.action == "drop" else None
        if dataset.deduplicate is None and asked is None:
            return data
        if f"clean-{name}" in self.jobs:
            return self.jobs[f"clean-{name}"]
        above, below = compared_with(self.recipe, name) if dataset.deduplicate else ([], [])
        inputs = {"dataset": Input.of(data)} | ({"benchmarks": Input.of(self._benchmarks())} if asked else {})
        inputs |= {f"earlier.{index}": Input.of(self._dataset(other)) for index, other in enumerate(above)}
        # Nothing of them is left out here but what is in their holdout, which their own cleaning never changes.
        inputs |= {f"later.{index}": Input.of(self._data(other)) for index, other in enumerate(below)}
        config = CleanJob(format=dataset.format, deduplicate=dataset.deduplicate, decontaminate=asked)
        return self._add(f"clean-{name}", name, config, inputs)

    def contamination(self, name: str) -> None:
        """The job that tells what a dataset that is read has of the benchmarks."""
        asked = self.recipe.data[name].decontaminate
        if asked and asked.action == "tell" and f"data-{name}" in self.jobs:
            inputs = {"dataset": Input.of(self._dataset(name)), "benchmarks": Input.of(self._benchmarks())}
            config = ContaminationJob(format=self.recipe.data[name].format, decontaminate=asked)
            self._add(f"contamination-{name}", name, config, inputs)

    def _benchmarks(self) -> Job:
        if "benchmarks" not in self.jobs:
            it = asked_by(self.recipe, self.path, self.digest, self._data)
            self._add("benchmarks", it.stage, it.config, it.inputs, it.files, None, it.world, it.named_files)
        return self.jobs["benchmarks"]

    def _data(self, name: str) -> Job:
        if f"data-{name}" in self.jobs:
            return self.jobs[f"data-{name}"]
        if f"data-{name}" in self._open:
            trail = " -> ".join([*self._open, f"data-{name}"])
            raise self._problem(("data", name), f"the dataset needs what is made of it in a circle: {trail}")
        self._open.append(f"data-{name}")
        inputs, judges = self._judges(name)
        self._open.remove(f"data-{name}")
        dataset = self.recipe.data[name].model_copy(update=dict.fromkeys(CLEANING))
        if dataset.hub and not dataset.revision:
            dataset = self._pinned(name, dataset)
        files, named, faults = dataset_files(dataset, self.path.resolve().parent, self.digest)
        for field, message in faults:
            self._note(("data", name, field), message)
        world = TRACK_VERSIONS.get(dataset.builtin, MICROWORLD_VERSION) if dataset.builtin else None
        files, named = files | judges, named | {f"classifier.{number}": path for number, path in enumerate(judges)}
        return self._add(f"data-{name}", name, DataJob(dataset=dataset), inputs, files, None, world, named)

    def _judges(self, name: str) -> tuple[dict[str, Input], dict[str, str]]:
        """What the filters of a dataset take from elsewhere: other jobs' artifacts, and files of a classifier."""
        quality = self.recipe.data[name].quality
        inputs, files = dict[str, Input](), dict[str, str]()
        if quality and quality.perplexity:
            inputs["reference"] = Input.of(self._data(quality.perplexity.reference))
        if quality and (classifier := quality.classifier):
            if classifier.model is not None:
                inputs |= self._weights("classifier", classifier.model)
            else:
                folder = self.path.resolve().parent / (classifier.path or "")
                files = {str(path): self.digest(path) for path in model_files(folder)}
        return inputs, files

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
