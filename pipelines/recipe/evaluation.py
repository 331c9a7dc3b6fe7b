"""Stage `evaluate` and its tasks: which there are, what each of them takes, and what it scores."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveInt

from pipelines.recipe.base import (
    LANGUAGE_MODELS,
    ArtifactKind,
    Bare,
    Consumes,
    LocalFile,
    ModelSource,
    Reads,
    Section,
)
from pipelines.recipe.data import Format
from pipelines.recipe.training import StageConfig

# Mirrors the keys of `pipelines.rewards.REWARDS`, which recipes name; a contract test keeps the two equal.
REWARD_FUNCTIONS = ("village_story",)

RewardFunc = Annotated[str, Consumes((ArtifactKind.REWARD_MODEL,), or_function=True)]
"""A reward stage, or a function of pipelines/rewards.py."""


@dataclass(frozen=True)
class TaskKind:
    """What a task of ours needs."""

    models: tuple[ArtifactKind, ...]
    """What it can score."""
    format: Format | None = None
    """Of the dataset whose holdout it scores; None: it takes no dataset."""
    fields: tuple[str, ...] = ()
    """Fields of TaskConfig that belong to it, beside `name`, `limit` and `data`."""


_GENERATES = (ArtifactKind.CAUSAL_LM, ArtifactKind.SEQ2SEQ_LM)
TASKS: Mapping[str, TaskKind] = {
    "bits_per_byte": TaskKind((ArtifactKind.CAUSAL_LM,), "text"),
    "reward": TaskKind((ArtifactKind.CAUSAL_LM,), "prompt", ("reward_funcs", "max_completion_length", "temperature")),
    "classification": TaskKind((ArtifactKind.CLASSIFIER,), "labelled"),
    "seq2seq": TaskKind(_GENERATES, "pairs", ("max_completion_length", "num_beams", "length_penalty")),
    "masked_accuracy": TaskKind((ArtifactKind.MASKED_LM,), "text"),
    "pseudo_perplexity": TaskKind((ArtifactKind.MASKED_LM,), "text"),
    "minimal_pairs": TaskKind((ArtifactKind.MASKED_LM,), None, ("file",)),
    "embeddings": TaskKind((ArtifactKind.CAUSAL_LM,), None, ("words", "pairs", "analogies", "word2vec")),
}
"""Our own tasks; every other name is one of recipes/tasks or of lm-eval, for what writes text."""
OTHER_TASK = TaskKind(_GENERATES, None, ("num_fewshot",))


def task_kind(name: str) -> TaskKind:
    """Of a task's name."""
    return TASKS.get(name, OTHER_TASK)


def _bare_task(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class TaskConfig(Section):
    """One benchmark: a name of lm-eval or of recipes/tasks, or one of ours: bits_per_byte and reward for causal LMs;
    classification for classifiers; seq2seq for what was fine-tuned on pairs; minimal_pairs, masked_accuracy and
    pseudo_perplexity for encoders; embeddings, which looks at words."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w./-]*$")]
    """The task's name."""
    num_fewshot: Annotated[int, Field(ge=0)] = 0
    """Worked examples put before each question."""
    limit: PositiveInt | None = None
    """Use only the first items."""
    data: Annotated[str | None, Reads(("text", "prompt", "labelled", "pairs"))] = None
    """bits_per_byte, masked_accuracy, pseudo_perplexity: a text dataset; reward: a prompt dataset; classification: a
    labelled one; seq2seq: pairs; each with a holdout."""
    reward_funcs: RewardFunc | None = None
    """reward: a reward stage, or a function of pipelines/rewards.py."""
    max_completion_length: PositiveInt = 64
    """reward and seq2seq: most new tokens of a completion."""
    temperature: NonNegativeFloat = 1.0
    """reward: sampling temperature; 0 is greedy."""
    num_beams: PositiveInt = 1
    """seq2seq: beams of the search; 1 is greedy."""
    length_penalty: float = 1.0
    """seq2seq with beams: a beam's log-probability is divided by its length to this power (arXiv 1609.08144, 7)."""
    file: Annotated[str | None, LocalFile()] = None
    """minimal_pairs: JSON lines with sentence_good and sentence_bad, relative to the recipe (arXiv 1912.00582)."""

    words: Annotated[tuple[Annotated[str, Field(pattern=r"^\S(.*\S)?$")], ...], Bare] = ()
    """embeddings: words whose neighbours are listed, and that are drawn as a map."""
    pairs: Annotated[str | None, LocalFile()] = None
    """embeddings: a file of word pairs scored by people, relative to the recipe; a line is `old<tab>new<tab>1.58`."""
    analogies: Annotated[str | None, LocalFile()] = None
    """embeddings: a file of analogies, relative to the recipe; a line is `man king woman queen`."""
    word2vec: bool = False
    """embeddings: also write vectors, in word2vec's text format, into the artifact's word2vec.txt: those of all words
    that are one entry of the vocabulary, and of `words`. The vector of a word of several pieces is their mean."""

    def faults(self) -> Iterator[str]:
        kind = task_kind(self.name)
        if kind.format is not None and self.data is None:
            yield f"task {self.name} needs data: the dataset whose holdout it scores"
        if self.name == "reward" and self.reward_funcs is None:
            yield "task reward needs reward_funcs: a reward stage or a function of pipelines/rewards.py"
        if self.name == "minimal_pairs" and self.file is None:
            yield "task minimal_pairs needs file: JSON lines with sentence_good and sentence_bad"
        if kind.format is None and self.data is not None:
            yield f"data: belongs to the tasks {_having('data')}, not to {self.name}"
        if "num_fewshot" not in kind.fields and self.num_fewshot:
            yield f"num_fewshot: belongs to benchmarks that ask questions, not to {self.name}"
        for field in dict.fromkeys(field for other in TASKS.values() for field in other.fields):
            if field not in kind.fields and getattr(self, field) != type(self).model_fields[field].default:
                plural = "s" if " and " in _having(field) else ""
                yield f"{field}: belongs to the task{plural} {_having(field)}, not to {self.name}"
        if self.length_penalty != 1.0 and self.num_beams == 1 and self.name == "seq2seq":
            yield "length_penalty compares beams; set num_beams to two or more"
        if self.name == "embeddings" and self.limit is not None:
            yield "limit: has no meaning for embeddings, which asks every line of its files; leave it out"
        if len(set(self.words)) < len(self.words):
            yield f"words: '{next(word for word in self.words if self.words.count(word) > 1)}' is named twice; keep one"


def _having(field: str) -> str:
    """The tasks that take a field."""
    *names, last = (
        name for name, kind in TASKS.items() if field in kind.fields or (field == "data" and kind.format is not None)
    )
    return f"{', '.join(names)} and {last}" if names else last


SCORED = (*LANGUAGE_MODELS, ArtifactKind.CLASSIFIER)
"""What has benchmarks."""


class EvaluateStage(StageConfig):
    """Score models on benchmarks: one job per model."""

    produces = ArtifactKind.SCORES
    draws = True
    kind: Literal["evaluate"]
    models: Annotated[tuple[ModelSource, ...], Bare, Field(min_length=1), Consumes(SCORED)]
    """Stages to score, or models made elsewhere, all on the same prompts."""
    tasks: Annotated[tuple[Annotated[TaskConfig, BeforeValidator(_bare_task)], ...], Bare, Field(min_length=1)]
    """Benchmarks: names, or {name, num_fewshot, limit, ...}."""
    apply_chat_template: bool = False
    """Put each prompt into a user turn of the chat template."""
    seed: int | None = None
    """This stage's own seed. Default: the recipe's."""
