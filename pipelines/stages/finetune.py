"""Stage `finetune`: a classifier or a regressor of labelled texts, or a model that writes the targets of pairs."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import nn

from pipelines.data.collate import ChatCollator
from pipelines.data.labelled import LabelledCollator, LabelledRows
from pipelines.data.labels import LabelKind, names_in
from pipelines.data.lessons import lesson_of
from pipelines.data.source_target import JoinedRows, SourceTargetCollator, SourceTargetRows
from pipelines.errors import DataError
from pipelines.evaluation import predictions, translation
from pipelines.evaluation.directions import DIRECTIONS
from pipelines.recipe.finetune import METRICS, FinetuneStage
from pipelines.stages.base import Metrics, StageContext
from pipelines.training.arguments import training_arguments
from pipelines.training.best import Best
from pipelines.training.finetune import FinetuneTrainer, LabelLoss, ShiftedCollator, TargetLoss
from pipelines.training.holdout import chat_scores, row_logits, target_scores
from pipelines.training.inputs import Source, Tokens, sources, tokens_of
from pipelines.training.losses import label_losses
from pipelines.training.session import Clock, Examples, exact_run, examples_of, finish, seed_of
from pipelines.training.starts import save_marks, starting_classifier, starting_writer
from pipelines.training.writing import texts, write


def run(ctx: StageContext) -> Metrics:
    """The model of another stage, or a random one, learns labels or targets."""
    clock, config = Clock(), ctx.job.config
    assert isinstance(config, FinetuneStage)
    tokens = tokens_of(ctx.inputs["tokenizer" if "tokenizer" in ctx.inputs else "model"])
    return (_classify if config.task == "classification" else _translate)(ctx, config, tokens, clock)


# --- labels -----------------------------------------------------------------------------------------------------------


def _classify(ctx: StageContext, config: FinetuneStage, tokens: Tokens, clock: Clock) -> dict[str, Any]:
    mix = sources(ctx, tokens.vocab_size)
    lesson = lesson_of(config, [source.train for source in mix], [source.holdout for source in mix])
    kind, names = lesson.kind, lesson.names
    assert kind is not None
    weights = class_weights(config, mix, names)
    model = starting_classifier(ctx, tokens, kind, names)
    eos = tokens.eos_id
    rows_of = partial(LabelledRows, label_names=names, bos_id=tokens.first_id, sep_id=eos, eos_id=eos)
    texts = examples_of(ctx, model, rows_of)
    has_types = getattr(model.config, "type_vocab_size", 0) > 1 and model.config.model_type == "sourdough_encoder"
    collator = LabelledCollator(tokens.pad_id, with_token_type_ids=has_types)

    def score(model: nn.Module) -> Mapping[str, float]:
        return label_scores(model, texts.held_out, collator, kind)

    trainer = FinetuneTrainer(
        model=model,
        args=training_arguments(
            config, ctx.launch, output_dir=ctx.checkpoints, max_steps=texts.steps, seed=seed_of(ctx)
        ),
        rows=texts.rows,
        exact=exact_run(ctx, texts.schedule, score, best=_best(config, texts, kind)),
        loss=LabelLoss(
            kind,
            num_rows=config.global_batch_size,
            class_weights=weights,
            label_smoothing=config.label_smoothing_factor,
        ),
        collator=collator,
    )
    metrics = finish(ctx, trainer, model, clock)
    if PartialState().is_main_process:
        save_marks(ctx.output, tokens, has_types=has_types)
    PartialState().wait_for_everyone()
    return {**metrics, "label_kind": kind, "num_labels": len(names), **texts.counts}


def label_scores(model: nn.Module, rows: Any, collator: LabelledCollator, kind: LabelKind) -> dict[str, float]:
    """Loss per row, without weights and smoothing, and what fits the labels."""
    if not len(rows):
        return {}
    logits, labels = row_logits(model, rows, collator)
    losses = label_losses(torch.from_numpy(logits), torch.from_numpy(labels), kind)
    found = {f"holdout_{name}": value for name, value in predictions.scores(logits, labels, kind).items()}
    return {"holdout_loss": float(losses.double().mean()), **found, "holdout_rows": len(rows)}


def class_weights(config: FinetuneStage, mix: list[Source], names: tuple[str, ...]) -> torch.Tensor | None:
    """One weight per name. `balanced`: all mentions, by the number of names and by those of this name."""
    wanted = config.class_weights
    if wanted is None:
        return None
    if wanted == "balanced":
        counts = dict.fromkeys(names, 0)
        for table in (source.train for source in mix):
            for label in table.json_values("label"):
                for name in names_in(label):
                    counts[name] += 1
        total = sum(counts.values())
        return torch.tensor([total / (len(names) * counts[name]) for name in names])
    return torch.tensor([wanted.get(name, 1.0) for name in names])


# --- pairs ------------------------------------------------------------------------------------------------------------


def _translate(ctx: StageContext, config: FinetuneStage, tokens: Tokens, clock: Clock) -> dict[str, Any]:
    mix = sources(ctx, tokens.vocab_size)
    lesson_of(config, [source.train for source in mix], [source.holdout for source in mix])
    model = starting_writer(ctx, tokens)
    is_encoder_decoder = bool(model.config.is_encoder_decoder)
    if is_encoder_decoder:
        pairs = examples_of(ctx, model, partial(SourceTargetRows, eos_id=tokens.eos_id))
        collator: Any = ShiftedCollator(SourceTargetCollator(tokens.pad_id), model)
    else:
        # Every tokenizer has an eos, and no text spells it: it also says where the source ends.
        eos = tokens.eos_id
        pairs = examples_of(ctx, model, partial(JoinedRows, bos_id=tokens.first_id, sep_id=eos, eos_id=eos))
        collator = ChatCollator(tokens.pad_id)
    best = _best(config, pairs, "seq2seq")
    loss_of = target_scores if is_encoder_decoder else chat_scores

    def score(model: nn.Module) -> Mapping[str, float]:
        found = dict(loss_of(model, pairs.held_out, collator))
        if best is not None and best.metric != "loss":
            found |= text_scores(model, pairs.held_out, tokens)
        return found

    trainer = FinetuneTrainer(
        model=model,
        args=training_arguments(
            config, ctx.launch, output_dir=ctx.checkpoints, max_steps=pairs.steps, seed=seed_of(ctx)
        ),
        rows=pairs.rows,
        exact=exact_run(ctx, pairs.schedule, score, best=best),
        loss=TargetLoss(shifts=not is_encoder_decoder, label_smoothing=config.label_smoothing_factor),
        collator=collator,
    )
    return {**finish(ctx, trainer, model, clock), **pairs.counts}


def text_scores(model: Any, rows: Any, tokens: Tokens) -> dict[str, float]:
    """chrF, BLEU and exact match of what is written greedily, of the length of the longest target at most."""
    sides = [_sides(rows[row], is_encoder_decoder=bool(model.config.is_encoder_decoder)) for row in range(len(rows))]
    longest = max(len(target) for _, target in sides)
    found = write(model, [source for source, _ in sides], tokens, max_new_tokens=longest)
    said, wanted = texts(found, tokens), texts([target for _, target in sides], tokens)
    references = [[text] for text in wanted]
    return {
        "holdout_chrf": translation.chrf(said, references).value,
        "holdout_bleu": translation.bleu(said, references).value,
        "holdout_exact_match": float(np.mean([one == other for one, other in zip(said, wanted, strict=True)])),
    }


def _sides(row: Mapping[str, np.ndarray], *, is_encoder_decoder: bool) -> tuple[list[int], list[int]]:
    """What is read, and what is to be said."""
    ids, labels = row["input_ids"], row["labels"]
    if is_encoder_decoder:
        return ids.tolist(), labels.tolist()
    return ids[labels < 0].tolist(), ids[labels >= 0].tolist()


# --- the best ---------------------------------------------------------------------------------------------------------


def _best(config: FinetuneStage, examples: Examples, kind: str) -> Best | None:
    """What keeps the best weights, where the recipe asks for it."""
    if config.eval_steps is None:
        return None
    metric = config.metric_for_best_model or METRICS[kind][0]
    if not len(examples.held_out):
        raise DataError("eval_steps: no row of the holdout fits into max_length; raise it, or remove eval_steps")
    best = Best(metric, higher_is_better=DIRECTIONS[metric], every=config.eval_steps)
    if PartialState().is_main_process:
        wanted = "highest" if best.higher_is_better else "lowest"
        print(
            f"note: keeps the weights with the {wanted} {metric} on the holdout, scored each {best.every} steps",
            flush=True,
        )
    return best
