"""Thin trainers: our ids and labels in, Hugging Face's losses, our order, checkpoints and guards."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import numpy as np
import torch
from datasets import Dataset as HFDataset
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from trl.trainer.utils import FusedCausalLMOutput

from pipelines.data.collate import IGNORED, Batch, ChatCollator, PairCollator, RewardCollator
from pipelines.training.exact import Exact, ExactTrainerMixin
from pipelines.training.losses import shifted


class PretrainTrainer(ExactTrainerMixin, Trainer):
    """Language modelling on rows of text. `loss` takes outputs, labels and num_items_in_batch; with experts, the losses
    that keep their router in balance are added to it."""

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        args: TrainingArguments,
        rows: Any,
        exact: Exact,
        collator: Callable[[Sequence[Any]], Batch],
        loss: Callable[..., Tensor],
    ):
        self._loss = loss
        self._routed: list[tuple[Tensor, Tensor]] = []
        """Router's losses and tokens of each expert, (layers, experts), of this step's micro batches so far."""
        super().__init__(
            model=model,
            args=args,
            rows=rows,
            exact=exact,
            train_dataset=rows,
            compute_loss_func=self._loss_with_router,
            data_collator=collator,
        )

    def _loss_with_router(
        self, outputs: Mapping[str, Tensor], labels: Tensor, num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        loss = self._loss(outputs, labels, num_items_in_batch)
        if "aux_loss" not in outputs:
            return loss
        aux_loss = outputs["aux_loss"]
        if num_items_in_batch is not None:
            # A mean over this micro batch's tokens. Load balancing is a product of means, but of each row's own, so it
            # is a sum over rows after all: divided like the cross entropy, by the targets of the whole step, it is the
            # same however the step is cut up.
            aux_loss = aux_loss * outputs["num_tokens"] / num_items_in_batch.clamp(min=1)
        self._routed.append((aux_loss.detach(), outputs["expert_tokens"]))
        return loss + aux_loss

    def step_metrics(self, step: int) -> dict[str, float]:
        """The router's part of the loss, and the largest and smallest share of tokens that an expert of a layer has."""
        if not self._routed:
            return {}
        losses, tokens = (torch.stack(part).sum(dim=0) for part in zip(*self._routed, strict=True))
        self._routed = []
        losses, tokens = (self.accelerator.reduce(part, reduction="sum") for part in (losses, tokens))
        shares = tokens / tokens.sum(dim=1, keepdim=True)
        return {
            "aux_loss": float(losses),
            "expert_share_max": float(shares.amax(dim=1).mean()),
            "expert_share_min": float(shares.amin(dim=1).mean()),
        }


class ExactSFTTrainer(ExactTrainerMixin, SFTTrainer):
    """trl.SFTTrainer on rows of input_ids and labels; TRL normalises by the tokens of the whole step.

    The losses of a router are pretraining's: here, as in reward, dpo and ppo, it only learns from the task."""

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        args: SFTConfig,
        rows: Any,
        exact: Exact,
        processing_class: PreTrainedTokenizerBase,
    ):
        coefficient = getattr(model.config, "router_aux_loss_coef", None)
        super().__init__(
            model=model,
            args=args,
            rows=rows,
            exact=exact,
            processing_class=processing_class,
            data_collator=ChatCollator(processing_class.pad_token_id),
            train_dataset=HFDataset.from_list([{"input_ids": [0], "labels": [0]}]),
        )
        if coefficient is not None:  # TRL keeps its own switch in the model's config, which would be saved
            model.config.router_aux_loss_coef = coefficient
            del model.config.output_router_logits
        _use_plain_head_on_cpu(model)


class ExactRewardTrainer(ExactTrainerMixin, RewardTrainer):
    """trl.RewardTrainer on rows of prompt_ids, chosen_ids and rejected_ids."""

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        args: RewardConfig,
        rows: Any,
        exact: Exact,
        processing_class: PreTrainedTokenizerBase,
    ):
        super().__init__(
            model=model,
            args=args,
            rows=rows,
            exact=exact,
            processing_class=processing_class,
            data_collator=RewardCollator(processing_class.pad_token_id),
            train_dataset=HFDataset.from_list([{"chosen_ids": [0], "rejected_ids": [0]}]),
        )


class ExactDPOTrainer(ExactTrainerMixin, DPOTrainer):
    """trl.DPOTrainer on rows of prompt_ids, chosen_ids and rejected_ids that carry their reference scores.

    TRL tokenises whatever it is given in __init__, so it is given one row of text and our rows come afterwards."""

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        args: DPOConfig,
        rows: "ScoredPairs",
        exact: Exact,
        processing_class: PreTrainedTokenizerBase,
    ):
        text = processing_class.eos_token
        super().__init__(
            model=model,
            # TRL wants a reference that is another object, or it loads one. This is the same module once more, no
            # copy of its weights, and gone again below: the scores come with the rows.
            ref_model=copy.copy(model),
            args=args,
            rows=rows,
            exact=exact,
            processing_class=processing_class,
            data_collator=PairCollator(processing_class.pad_token_id, with_completion_mask=True),
            train_dataset=HFDataset.from_list([{"prompt": text, "chosen": text, "rejected": text}]),
        )
        self.ref_model, self.precompute_ref_logps = None, True
        _use_plain_head_on_cpu(model)


@dataclass
class ScoredPairs:
    """Pairs with the reference's log-probabilities of their completions."""

    rows: Any
    chosen: np.ndarray
    rejected: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        return self.rows.lengths

    def __getitem__(self, row: int) -> dict[str, Any]:
        scores = {"ref_chosen_logps": float(self.chosen[row]), "ref_rejected_logps": float(self.rejected[row])}
        return {**self.rows[row], **scores}


# --- the head ---------------------------------------------------------------------------------------------------------


def _use_plain_head_on_cpu(model: PreTrainedModel) -> None:
    """Answer TRL's `fused_lm_head=True` with a plain cross entropy where TRL's fused head is slow.

    TRL computes the head in tiles, on every place and twice, to save a GPU's memory; on a CPU that is most of a step's
    time. Here it is computed once, on the places that have a target. The attention mask is left out: rows are padded
    on the right, and a causal token never sees what comes after it."""
    if next(model.parameters()).device.type == "cpu":
        model.forward = MethodType(_plain_head_forward, model)


def _plain_head_forward(
    self: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    labels: Tensor | None = None,
    fused_lm_head: bool = False,
    num_items_in_batch: Tensor | None = None,
    use_cache: bool | None = None,
) -> Any:
    if not fused_lm_head:
        return type(self).forward(self, input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)
    assert labels is not None
    hidden = self.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
    targets = shifted(labels)[:, :-1]
    is_target = targets != IGNORED
    logits = self.get_output_embeddings()(hidden[:, :-1][is_target]).float()
    log_probs = torch.zeros_like(is_target, dtype=torch.float32)
    log_probs = log_probs.masked_scatter(is_target, -cross_entropy(logits, targets[is_target], reduction="none"))
    nothing = torch.zeros_like(log_probs)
    return FusedCausalLMOutput(
        log_probs=log_probs,
        entropy=nothing,  # TRL's extra figures are not logged here
        mean_logits=nothing,
        is_top1=nothing.bool(),
        label_mask=is_target,
    )
