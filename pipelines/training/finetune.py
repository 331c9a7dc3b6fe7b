"""The trainer of stage `finetune`, and its losses."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainingArguments

from pipelines.data.collate import Batch
from pipelines.data.labels import LabelKind
from pipelines.data.source_target import SourceTargetCollator
from pipelines.training.exact import Exact, ExactTrainerMixin
from pipelines.training.losses import label_losses, shifted, target_loss

Loss = Callable[..., Tensor]
"""Of a model's outputs, labels, and `num_items_in_batch`: what Trainer calls a compute_loss_func."""


class FinetuneTrainer(ExactTrainerMixin, Trainer):
    """A plain Trainer: the loss is ours, and so are rows and batches."""

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        args: TrainingArguments,
        rows: Any,
        exact: Exact,
        loss: Loss,
        collator: Callable[[Sequence[Any]], Batch],
    ):
        super().__init__(
            model=model,
            args=args,
            rows=rows,
            exact=exact,
            train_dataset=rows,
            compute_loss_func=loss,
            data_collator=collator,
        )


class LabelLoss:
    """The mean over the rows of the whole optimizer step, whatever micro batches and ranks they are on.

    A class's weight multiplies its rows' losses, and the divisor stays the number of rows: so a row counts the same in
    whatever company."""

    def __init__(self, kind: LabelKind, *, num_rows: int, class_weights: Tensor | None, label_smoothing: float):
        self.kind, self.num_rows, self.class_weights, self.label_smoothing = (
            kind,
            num_rows,
            class_weights,
            label_smoothing,
        )

    def __call__(
        self, outputs: Mapping[str, Tensor], labels: Tensor, num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        # Not num_items_in_batch: Trainer counts labels other than -100, which may be a number to predict.
        weights = None if self.class_weights is None else self.class_weights.to(outputs["logits"].device)
        losses = label_losses(
            outputs["logits"], labels, self.kind, class_weights=weights, label_smoothing=self.label_smoothing
        )
        return losses.sum() / self.num_rows


class TargetLoss:
    """Cross entropy per target token of the whole optimizer step."""

    def __init__(self, *, shifts: bool, label_smoothing: float):
        """`shifts`: a place's target is the next place's label, as in a decoder."""
        self.shifts, self.label_smoothing = shifts, label_smoothing

    def __call__(
        self, outputs: Mapping[str, Tensor], labels: Tensor, num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        targets = shifted(labels) if self.shifts else labels
        return target_loss(outputs["logits"], targets, num_items_in_batch, label_smoothing=self.label_smoothing)


class ShiftedCollator:
    """Adds the decoder's input, since the trainer takes the labels away before the model sees the batch."""

    def __init__(self, collator: SourceTargetCollator, model: PreTrainedModel):
        self._collator, self._model = collator, model

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        batch = self._collator(rows)
        decoder_input_ids: torch.Tensor = self._model.shift_right(batch["labels"])  # type: ignore[operator]
        return batch | {"decoder_input_ids": decoder_input_ids}
