"""What a recipe implies without naming it a stage: its data, their tokens, and models made elsewhere."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from pipelines.recipe.base import ArtifactKind, OutsideModel, Reads, Section
from pipelines.recipe.data import Dataset, Format
from pipelines.recipe.decontaminate import Decontaminate
from pipelines.recipe.deduplicate import Deduplicate
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
        built-in world says has versions of its own. One more where gopher_quality judges: it counts symbols as Gopher
        does."""
        quality = self.dataset.quality
        counts_symbols = quality is not None and any(item.kind == "gopher_quality" for item in quality.filters)
        return (1 if self.dataset.builtin else 2) + counts_symbols


class CleanJob(StageConfig):
    """Derived from an entry of `data` that is cleaned against others: its artifact reads like that of its data job."""

    produces = ArtifactKind.DATASET
    kind: Literal["clean"] = "clean"
    format: Format
    deduplicate: Deduplicate | None = None
    decontaminate: Decontaminate | None = None
    """Where it is to drop rows."""

    @property
    def version(self) -> int:  # type: ignore[override]
        """2 where runs of words are cut, or rows of several parts compared: more runs are found, and labels are never
        near each other."""
        config = self.deduplicate
        return 2 if config and (config.spans or (config.near < 1 and self.format != "text")) else 1


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
