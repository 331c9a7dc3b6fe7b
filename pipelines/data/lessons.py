"""What stage `finetune` can learn from its data: whether labels, holdouts and settings fit each other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.data.labels import LabelKind, Place, check_labels, label_names_of, numbered
from pipelines.data.tokens import TokenTable
from pipelines.errors import DataError, KeyPath
from pipelines.recipe.finetune import METRICS, FinetuneStage

CORRELATIONS = ("spearman", "pearson")


@dataclass(frozen=True)
class Lesson:
    """What all rows have in common."""

    kind: LabelKind | None
    """None where rows are pairs."""
    names: tuple[str, ...] = ()
    """Of the classes, in the order of their numbers."""


class Unfit(DataError):
    """Settings and data that do not fit: `faults` are (field of the stage, what is wrong)."""

    def __init__(self, faults: Sequence[tuple[KeyPath, str]]):
        self.faults = list(faults)
        super().__init__("\n".join(f"{path[0]}: {message}" for path, message in self.faults))


def lesson_of(
    config: FinetuneStage, train: Sequence[TokenTable], holdout: Sequence[TokenTable], place: Place = numbered
) -> Lesson:
    """Raises DataError where labels do not fit each other, and Unfit, with all faults, where settings do not."""
    if config.task == "seq2seq":
        lesson = Lesson(None)
    else:
        lesson = Lesson(*label_names_of(train, place))
        assert lesson.kind is not None
        check_labels(holdout, lesson.kind, lesson.names, place)
    if faults := [*_faults_of_classes(config, lesson), *_faults_of_the_best(config, lesson, holdout)]:
        raise Unfit(faults)
    return lesson


def _faults_of_classes(config: FinetuneStage, lesson: Lesson) -> Iterator[tuple[KeyPath, str]]:
    if lesson.kind == "regression":
        for field in ("class_weights", "label_smoothing_factor"):
            if getattr(config, field):
                yield (field,), "is for classes, and the labels are numbers to predict; remove it"
    elif isinstance(config.class_weights, dict):
        for name in sorted(set(config.class_weights) - set(lesson.names)):
            known = ", ".join(lesson.names)
            yield ("class_weights", name), f"no label is called {name}; there are {known}"


def _faults_of_the_best(
    config: FinetuneStage, lesson: Lesson, holdout: Sequence[TokenTable]
) -> Iterator[tuple[KeyPath, str]]:
    """Whether there will be scores to choose the best weights by."""
    if config.eval_steps is None:
        return
    kind = lesson.kind or "seq2seq"
    metric = config.metric_for_best_model or METRICS[kind][0]
    at = ("metric_for_best_model" if config.metric_for_best_model else "eval_steps",)
    if metric not in METRICS[kind]:
        yield at, f"'{metric}' does not fit {kind} labels; choose one of {', '.join(METRICS[kind])}"
    rows = sum(map(len, holdout))
    if not rows:
        yield ("eval_steps",), "no dataset has a holdout to score; give one `holdout: 0.05`, or remove eval_steps"
    elif metric in CORRELATIONS and lesson.kind == "regression" and (only := _only_value(holdout)) is not None:
        labels = f"{rows} labels are all {only:g}" if rows > 1 else f"only label is {only:g}"
        yield (
            at,
            f"the holdout's {labels}, and {metric} of that is no number; choose rmse or loss, or give the data a "
            "larger holdout",
        )


def _only_value(tables: Sequence[TokenTable]) -> float | None:
    """The number that all labels are, if they are one."""
    found = {label for table in tables for label in table.json_values("label")}
    return found.pop() if len(found) == 1 else None
