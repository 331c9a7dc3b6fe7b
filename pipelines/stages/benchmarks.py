"""The benchmarks stage: the questions that a recipe asks of its models, gathered to be looked for in training data."""

from pathlib import Path

from pipelines.cleaning.question_files import Questions, holdout_digest
from pipelines.errors import DataError
from pipelines.evaluation.questions import Sources, label, questions_of
from pipelines.plan.jobs import BenchmarksJob
from pipelines.recipe.evaluation import task_kind
from pipelines.stages.base import Metrics, StageContext


def run(ctx: StageContext) -> Metrics:
    """Write what `Questions.load` reads."""
    config = ctx.job.config
    assert isinstance(config, BenchmarksJob)
    ctx.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[tuple[str, ...], None]] = {}
    holdouts, documents = dict[str, str](), list[str]()
    for index, task in enumerate(config.tasks):
        sources = _sources(ctx, index, task.name)
        name = label(task.name, task.data, sources.named)
        try:
            # Two stages may ask the same task with other limits.
            found.setdefault(name, {}).update(dict.fromkeys(map(tuple, questions_of(task.name, task.limit, sources))))
        except DataError as error:
            raise DataError(f"task {task.name}: {error}") from error
        if sources.data is not None:
            holdouts[name] = holdout_digest(sources.data)
        if sources.format == "text" and name not in documents:
            documents.append(name)
    questions = Questions({name: list(asked) for name, asked in found.items()}, holdouts, documents)
    questions.save(ctx.output)
    counts = {f"questions_{name}": len(asked) for name, asked in questions.tasks.items()}
    return {"questions": sum(counts.values())} | counts


def _sources(ctx: StageContext, index: int, name: str) -> Sources:
    role = f"task.{index}"
    named = {field: ctx.job.named_files.get(f"{role}.{field}") for field in ("file", "pairs", "analogies")}
    return Sources(
        data=ctx.inputs.get(f"{role}.data"),
        format=task_kind(name).format,
        named={field: Path(path) for field, path in named.items() if path},
        files=list(ctx.job.files),
        scratch=ctx.checkpoints / "datasets" / str(index),
    )
