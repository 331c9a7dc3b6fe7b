"""Stage `finetune`: labels and pairs."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag

from pipelines.recipe.base import ArtifactKind, LanguageModelRef, TokenizerRef
from pipelines.recipe.data import FinetuneMixture
from pipelines.recipe.training import FromModelStage

METRICS: Mapping[str, tuple[str, ...]] = {
    "single_label": ("accuracy", "f1_macro", "matthews_correlation", "loss"),
    "multi_label": ("f1_micro", "f1_macro", "exact_match", "loss"),
    "regression": ("spearman", "pearson", "rmse", "loss"),
    "seq2seq": ("loss", "chrf", "bleu", "exact_match"),
}
"""Kind of labels, or seq2seq -> what may choose the best weights; the first is the default."""


def _is_word(value: Any) -> str:
    return "[word]" if isinstance(value, str) else "[mapping]"


ClassWeights = Annotated[
    Annotated[Literal["balanced"], Tag("[word]")]
    | Annotated[dict[str, PositiveFloat], Field(min_length=1), Tag("[mapping]")],
    Discriminator(_is_word),
]
"""A word, or a weight of each class. Told apart before they are read, so that a fault of one is told once."""


class FinetuneStage(FromModelStage):
    """Fine-tune on labels or on pairs: classification and regression, or seq2seq (translation, rewriting)."""

    produces = ArtifactKind.CLASSIFIER
    kind: Literal["finetune"]
    task: Literal["classification", "seq2seq"]
    """classification: labelled data, by an encoder or a decoder; numbers as labels make it a regression. seq2seq:
    pairs, by an encoder_decoder, or by a decoder that reads the source as its prompt."""
    model: LanguageModelRef | None = None  # type: ignore[assignment]
    """The stage whose weights this one starts from; null starts from random weights."""
    tokenizer: TokenizerRef | None = None
    """A tokenizer stage, for random weights. Default: the only one."""
    data: FinetuneMixture
    """classification: labelled datasets; seq2seq: pairs; shares are of examples."""
    label_smoothing_factor: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability given to all classes, or tokens, alike (arXiv 1512.00567, 7)."""
    class_weights: ClassWeights | None = None
    """classification: weight of each class in the loss; balanced: inverse to how often it occurs."""
    eval_steps: PositiveInt | None = None
    """Score the holdout each so many steps, and keep the best weights seen there. Default: the last are kept."""
    metric_for_best_model: str | None = None
    """Which score of the holdout is the best weights'; its direction is known. classification: accuracy, f1_macro,
    matthews_correlation for one label; f1_micro, f1_macro, exact_match for several; spearman, pearson, rmse for
    numbers; seq2seq: chrf, bleu, exact_match (all but loss write the holdout's targets greedily); loss for all.
    Default: accuracy, f1_micro, spearman or loss."""

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if self.class_weights is not None and self.task != "classification":
            yield f"class_weights belongs to classification, and task is {self.task}"
        if self.metric_for_best_model is not None and self.eval_steps is None:
            yield "metric_for_best_model is set, so eval_steps is needed: how often to look"
        kinds = [kind for kind in METRICS if (kind == "seq2seq") == (self.task == "seq2seq")]
        fitting = dict.fromkeys(name for kind in kinds for name in METRICS[kind])
        if self.metric_for_best_model not in (None, *fitting):
            yield (
                f"metric_for_best_model: '{self.metric_for_best_model}' is no score of {self.task}; choose one of "
                f"{', '.join(fitting)}"
            )
        if self.peft is not None and self.model is None:
            yield "peft: random weights are nothing to put an adapter on; say which by `model: `, or leave peft out"
        if self.peft is not None and self.peft.quantization != "none" and self.task == "classification":
            yield "peft: quantization: 4bit is for language models, and a classifier has a head of its own; use none"
        if self.tokenizer is not None and self.model is not None:
            yield "tokenizer is for random weights; the model brings its own"
