"""Stage `evaluate`: one model's scores on benchmarks, on held-out text and on held-out prompts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from accelerate import PartialState

from pipelines.data.tokens import TokenTable
from pipelines.errors import DataError
from pipelines.evaluation.bits import score_bits
from pipelines.evaluation.embedding_task import describe_words, score_embeddings, write_words
from pipelines.evaluation.finetuned import score_classification, score_pairs
from pipelines.evaluation.harness import score_task
from pipelines.evaluation.labels import labels
from pipelines.evaluation.masked import score_masked
from pipelines.evaluation.scoring import score_reward
from pipelines.evaluation.subject import Subject
from pipelines.recipe.base import ArtifactKind
from pipelines.recipe.evaluation import TASKS, EvaluateStage, TaskConfig
from pipelines.recipe.outside import kind_left
from pipelines.stages.base import Metrics, StageContext

if TYPE_CHECKING:
    from pipelines.evaluation.seq2seq import Seq2SeqLM

SCORES, WORD2VEC = "scores.json", "word2vec.txt"
SAMPLES = 3
"""Prompts of each kind that every model completes for the report."""
SAMPLE_TOKENS = 64
OPENING_TOKENS = 16
"""Tokens of a held-out document that a model is given to go on from."""
OTHERS = ("classification", "seq2seq", "masked_accuracy", "pseudo_perplexity", "minimal_pairs")
"""Tasks that ask a model in their own way; all others ask a causal LM, and benchmarks an encoder-decoder too."""
NEUTRAL = "Today"
"""What a model goes on from where no task has text of its own."""


def run(ctx: StageContext) -> Metrics:
    """Write scores.json; every process works, the first one writes."""
    config = cast(EvaluateStage, ctx.job.config)
    asks_subject = any(task.name not in OTHERS for task in config.tasks)
    subject = _subject(ctx) if asks_subject else None
    scores: list[dict[str, Any]] = []
    samples: list[dict[str, str]] = _samples(ctx, subject, config) if isinstance(subject, Subject) else []
    for number, task in enumerate(config.tasks):
        rows, more = _score(ctx, subject, number, task)
        scores, samples = scores + rows, samples + more
    if PartialState().is_main_process:
        report = {
            "model": ctx.job.inputs["model"].fingerprint,
            "settings": _settings(subject, scores) | {"apply_chat_template": config.apply_chat_template},
            "scores": scores,
            "samples": samples,
        }
        for task in config.tasks:
            if task.words and isinstance(subject, Subject):
                report["embeddings"] = describe_words(subject, task)
            if task.word2vec and isinstance(subject, Subject):
                write_words(ctx.output / WORD2VEC, subject, task)
        text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
        (ctx.output / SCORES).write_text(text, encoding="utf-8")
    PartialState().wait_for_everyone()  # a process that ends early may take the one that writes with it
    names = labels((score["task"], score) for score in scores)
    return {f"{name}.{score['metric']}": score["value"] for name, score in zip(names, scores, strict=True)}


def _subject(ctx: StageContext) -> "Subject | Seq2SeqLM":
    model, base = ctx.inputs["model"], ctx.inputs.get("model.base")
    if kind_left(base or model) == ArtifactKind.SEQ2SEQ_LM:
        from pipelines.evaluation.seq2seq import Seq2SeqLM

        return Seq2SeqLM(model, base=base, device=ctx.launch.device, batch_size=ctx.launch.micro_batch_size)
    return Subject.load(
        model,
        base=base,
        device=ctx.launch.device,
        batch_size=ctx.launch.micro_batch_size,
    )


def _settings(subject: "Subject | Seq2SeqLM | None", scores: list[dict[str, Any]]) -> dict[str, Any]:
    if subject is not None:
        return subject.settings | {"template_digest": subject.template_digest}
    return {"bos_policy": scores[0]["bos_policy"], "dtype": scores[0]["dtype"], "template_digest": None}


def _score(
    ctx: StageContext, subject: "Subject | Seq2SeqLM | None", number: int, task: TaskConfig
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Rows, and samples that a task has of its own."""
    data, seed = ctx.inputs.get(f"task.{number}.data"), cast(int, ctx.job.seed)
    model, base, device = ctx.inputs["model"], ctx.inputs.get("model.base"), ctx.launch.device
    try:
        if task.name == "classification":
            return score_classification(model, task, cast(Path, data), device=device, seed=seed, base=base)
        if task.name == "seq2seq":
            return score_pairs(model, task, cast(Path, data), device=device, seed=seed, base=base)
        if task.name in OTHERS:
            return score_masked(model, task, data, device=device, seed=seed), []
        if task.name in TASKS:
            return _rows(ctx, cast(Subject, subject), number, task), []
        folder = ctx.workdir / "datasets" / str(number)
        chat = cast(EvaluateStage, ctx.job.config).apply_chat_template
        return score_task(cast(Subject, subject), task, ctx.job.files, folder, apply_chat_template=chat), []
    except DataError as error:
        raise DataError(f"task {task.name}: {error}") from error


def _rows(ctx: StageContext, subject: Subject, number: int, task: TaskConfig) -> list[dict[str, Any]]:
    data = ctx.inputs.get(f"task.{number}.data")
    if task.name == "bits_per_byte":
        return score_bits(subject, task, cast(Path, data))
    if task.name == "reward":
        return score_reward(
            subject,
            task,
            prompts=cast(Path, data),
            model=ctx.inputs["model"],
            reward_model=ctx.inputs.get(f"task.{number}.reward_model"),
            reward_base=ctx.inputs.get(f"task.{number}.reward_model.base"),
            seed=cast(int, ctx.job.seed),
        )
    files = {
        field: Path(path) if (path := ctx.job.named_files.get(f"task.{number}.{field}")) else None
        for field in ("pairs", "analogies")
    }
    return score_embeddings(subject, pairs=files["pairs"], analogies=files["analogies"], seed=cast(int, ctx.job.seed))


def _samples(ctx: StageContext, subject: Subject, config: EvaluateStage) -> list[dict[str, str]]:
    """The same few prompts for every model, completed greedily: held-out prompts, and openings of held-out text."""
    prompts: list[tuple[str, str, list[int]]] = []
    for number, task in enumerate(config.tasks):
        kind = {"reward": "chat", "bits_per_byte": "text"}.get(task.name)
        if kind and kind not in {known for known, _, _ in prompts}:
            prompts += _openings(ctx.inputs[f"task.{number}.data"], subject, kind)
    if not prompts:
        prompts = [("text", NEUTRAL, subject.bos + subject.encode(NEUTRAL))]
    room = min(SAMPLE_TOKENS, subject.max_length // 2)
    completions = subject.complete([ids for _, _, ids in prompts], max_new_tokens=room)
    return [
        {"kind": kind, "prompt": shown, "completion": subject.decode(ids)}
        for (kind, shown, _), ids in zip(prompts, completions, strict=True)
    ]


def _openings(folder: Path, subject: Subject, kind: str) -> list[tuple[str, str, list[int]]]:
    table = TokenTable.open(folder, "holdout")
    found = []
    for row in range(min(SAMPLES, len(table))):
        if kind == "chat":
            messages = table.value("prompt", row)
            found.append((kind, messages[-1]["content"], table.ids("prompt_ids", row).tolist()))
        else:
            ids = table.ids("input_ids", row)[: OPENING_TOKENS + len(subject.bos)].tolist()
            found.append((kind, subject.decode(ids), ids))
    return found
