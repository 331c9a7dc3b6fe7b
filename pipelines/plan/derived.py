"""What a recipe implies without naming it a stage: its data, their tokens, and models made elsewhere."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from pipelines.recipe.base import ArtifactKind, OutsideModel, Reads, Section
from pipelines.recipe.data import Dataset, Format
from pipelines.recipe.decontaminate import Decontaminate
from pipelines.recipe.deduplicate import Deduplicate
from pipelines.recipe.kinds import starts_from
from pipelines.recipe.root import Recipe
from pipelines.recipe.stages import TokenizerStage
from pipelines.recipe.tokenizer import Reference
from pipelines.recipe.training import StageConfig

Source = str | OutsideModel
"""What a stage may start from: a stage's name, or a model made elsewhere."""


class DataJob(StageConfig):
    """Derived from an entry of `data`: fetch, parse, account for every row, split off the holdout."""

    produces = ArtifactKind.DATASET
    kind: Literal["data"] = "data"
    dataset: Dataset

    @property
    def version(self) -> int:  # type: ignore[override]
        """2 of files and Hub data: other roles, system columns, histories and empty files are read now. What the
        built-in world says has versions of its own."""
        return 1 if self.dataset.builtin else 2


class CleanJob(StageConfig):
    """Derived from an entry of `data` that is cleaned against others: its artifact reads like that of its data job."""

    produces = ArtifactKind.DATASET
    kind: Literal["clean"] = "clean"
    format: Format
    deduplicate: Deduplicate | None = None
    decontaminate: Decontaminate | None = None
    """Where it is to drop rows."""


class AskedTask(Section):
    """A task of an evaluate stage, as far as it decides which questions are asked."""

    name: str
    limit: PositiveInt | None = None
    data: Annotated[str | None, Reads(("text", "prompt", "labelled", "pairs"))] = None
    """What the dataset is called whose holdout it asks."""


class BenchmarksJob(StageConfig):
    """Derived from all evaluate stages: the questions that they ask, which must not be in training data."""

    produces = ArtifactKind.QUESTIONS
    kind: Literal["benchmarks"] = "benchmarks"
    tasks: tuple[AskedTask, ...]


class ContaminationJob(StageConfig):
    """Derived from a dataset that is to tell what it has of the benchmarks: it only feeds the report, so that another
    benchmark trains no model anew."""

    produces = ArtifactKind.CONTAMINATION
    kind: Literal["contamination"] = "contamination"
    format: Format
    decontaminate: Decontaminate


class TokensJob(StageConfig):
    """Derived from a (dataset, tokenizer) pair: ids with document boundaries, not packed."""

    produces = ArtifactKind.TOKENS
    kind: Literal["tokens"] = "tokens"
    format: Format


class ModelJob(StageConfig):
    """Derived from a model made elsewhere: its weights in our blocks, with its tokenizer."""

    produces = ArtifactKind.CAUSAL_LM
    kind: Literal["model"] = "model"
    model: OutsideModel
    uses: dict[str, tuple[ArtifactKind, ...]] = Field(default_factory=dict)
    """Stage -> what it can start from; decides nothing of the model, but it is refused where it does not fit."""

    def meaning(self) -> dict[str, Any]:
        return {name: value for name, value in super().meaning().items() if name != "uses"}


class VocabularyJob(StageConfig):
    """Derived from a tokenizer stage that names others or sizes to be measured beside it: it only feeds the report, so
    that neither makes a tokenizer again."""

    produces = ArtifactKind.VOCABULARY
    kind: Literal["vocabulary"] = "vocabulary"
    tokenizer: TokenizerStage
    """How those of other sizes are trained."""
    compare: tuple[Reference, ...] = ()
    sweep: tuple[int, ...] = ()


def compared_with(recipe: Recipe, name: str) -> tuple[list[str], list[str]]:
    """The datasets above and below one in the recipe that are deduplicated with it: used by a stage, and of its
    format. An unused one costs nothing and takes nothing away."""
    format, used = recipe.data[name].format, {name, *_used(recipe.stages.values())}
    among = [
        other
        for other, dataset in recipe.data.items()
        if dataset.deduplicate and dataset.format == format and other in used
    ]
    place = among.index(name)
    return among[:place], among[place + 1 :]


def _used(sections: Iterable[Any]) -> Iterator[str]:
    """Names of datasets that sections read, at every depth."""
    for section in sections:
        if not isinstance(section, Section):
            continue
        for field, _ in section.marked(Reads):
            value = getattr(section, field)
            yield from [value] if isinstance(value, str) else (value or ())
        for field in type(section).model_fields:
            value = getattr(section, field)
            yield from _used(value if isinstance(value, tuple) else (value,))


def outside_tokenizers(recipe: Recipe) -> Iterator[tuple[str, Reference]]:
    """(stage, tokenizer made elsewhere that it takes over or is compared with)"""
    for name, stage in recipe.stages.items():
        if isinstance(stage, TokenizerStage):
            yield from ((name, reference) for reference in (stage.source, *stage.compare) if reference is not None)


def outside_models(recipe: Recipe) -> Iterator[OutsideModel]:
    """The models made elsewhere that a recipe starts from or scores."""
    for name in recipe.stages:
        yield from (model for model in _sources(recipe, name) if isinstance(model, OutsideModel))


def first_user(recipe: Recipe, model: OutsideModel) -> str:
    """The first stage that names a model made elsewhere."""
    return next(name for name in recipe.stages if model in _sources(recipe, name))


def uses_of(recipe: Recipe, model: OutsideModel) -> dict[str, tuple[ArtifactKind, ...]]:
    """The stages that start from a model made elsewhere, and what each of them can start from."""
    return {name: starts_from(stage) for name, stage in recipe.stages.items() if model in _sources(recipe, name)}


def starts_outside(recipe: Recipe, name: Source | None) -> bool:
    """Whether the weights of a stage come from a model made elsewhere."""
    while isinstance(name, str):
        name = getattr(recipe.stages[name], "model", None)
    return name is not None


def _sources(recipe: Recipe, name: str) -> tuple[Source | None, ...]:
    stage = recipe.stages[name]
    return getattr(stage, "models", None) or (getattr(stage, "model", None),)
