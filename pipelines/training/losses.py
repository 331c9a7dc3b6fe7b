"""Pure arithmetic of language modelling: cross entropy over tokens, and log-probabilities of given tokens."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipelines.data.collate import IGNORED

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


def target_loss(logits: Tensor, targets: Tensor, num_targets: Tensor | None = None) -> Tensor:
    """The same where each place says its own target: logits (..., vocabulary), targets (...)."""
    total = cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    count = (targets != IGNORED).sum() if num_targets is None else num_targets
    return total / torch.as_tensor(count, device=total.device).clamp(min=1)


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
