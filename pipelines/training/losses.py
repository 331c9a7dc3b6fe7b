"""Pure arithmetic: cross entropy over tokens, log-probabilities of given tokens, and losses of labels."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from pipelines.data.collate import IGNORED
from pipelines.data.labels import LabelKind

Outputs = Mapping[str, Tensor]


def shifted(labels: Tensor) -> Tensor:
    """Each place's target is the next token; the last place has none. Shape (rows, tokens), like `labels`."""
    return torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), IGNORED)], dim=1)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood per place, 0 where the target is ignored; logits (rows, tokens, vocabulary)."""
    flat = cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return flat.view_as(targets)


def causal_lm_loss(logits: Tensor, labels: Tensor, num_targets: Tensor | None = None) -> Tensor:
    """Sum over this micro batch divided by the targets of the whole optimizer step, over all ranks and micro batches.

    Not a model's own loss: several stock models take `num_items_in_batch` and ignore it, which makes the gradient
    `gradient_accumulation_steps` times too large, without a word."""
    # The labels are moved, not the logits: a slice of those would copy the largest tensor of the step.
    return target_loss(logits, shifted(labels), num_targets)


def target_loss(
    logits: Tensor, targets: Tensor, num_targets: Tensor | None = None, *, label_smoothing: float = 0.0
) -> Tensor:
    """The same where each place says its own target: logits (..., vocabulary), targets (...); smoothed as in arXiv
    1512.00567, 7."""
    flat, wanted = logits.flatten(0, -2).float(), targets.flatten()
    total = cross_entropy(flat, wanted, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing)
    count = (wanted != IGNORED).sum() if num_targets is None else num_targets
    return total / torch.as_tensor(count, device=total.device).clamp(min=1)


def label_losses(
    logits: Tensor,
    labels: Tensor,
    kind: LabelKind,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Loss of each row, (rows,), of logits (rows, names).

    single_label: cross entropy of the class; multi_label: the mean over names of binary cross entropies, where a
    weight counts as often as its name applies; regression: squared error of the only output. With smoothing, that
    much probability is given to all classes alike; of one name, to yes and no."""
    logits = logits.float()
    if kind == "single_label":
        return cross_entropy(logits, labels, class_weights, reduction="none", label_smoothing=label_smoothing)
    if kind == "multi_label":
        targets = labels * (1 - label_smoothing) + label_smoothing / 2
        losses = binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=class_weights)
        return losses.mean(-1)
    return mse_loss(logits.squeeze(-1), labels.float(), reduction="none")


# --- as `compute_loss_func` of a transformers.Trainer -----------------------------------------------------------------


def causal_outputs_loss(outputs: Outputs, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
    """Labels are the ids themselves."""
    return causal_lm_loss(outputs["logits"], labels, num_items_in_batch)


def aligned_outputs_loss(outputs: Outputs, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
    """Each place says its own target, as in the decoder of an encoder-decoder."""
    return target_loss(outputs["logits"], labels, num_items_in_batch)


def masked_outputs_loss(outputs: Outputs, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
    """Logits are of the places with a label alone, in their order."""
    return target_loss(outputs["logits"], labels[labels != IGNORED], num_items_in_batch)
