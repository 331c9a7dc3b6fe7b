"""Proximal policy optimisation on transformers' Trainer: actor and critic on one trunk, rollouts, clipped updates.

A rollout is a function of (weights, seed, number). Each process completes its share of the prompts; one gather then
gives every process the whole rollout, so that whitening, normalisation and the order of the updates are global, and
equal for every number of processes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, Trainer, TrainingArguments

from pipelines.data.schedule import key
from pipelines.recipe.stages import PpoStage
from pipelines.training import ppo_losses
from pipelines.training.adapters import StartingPoint
from pipelines.training.exact import Exact, ExactTrainerMixin
from pipelines.training.generation import batch_rows, left_padded, noise, sample, unpadded
from pipelines.training.rollouts import Prompt, PromptRows, Rollout, joined, require_finite, with_advantages
from pipelines.training.scoring import Reward

MOST_LOGITS = 1 << 25
"""Logits held at a time where no gradient is wanted, 128 MB."""


@dataclass(frozen=True)
class PPOSettings:
    """What decides the objective; the fields of the recipe's stage, and which tokens stop and pad."""

    rollout_batch_size: int
    num_ppo_epochs: int
    max_completion_length: int
    stop_ids: tuple[int, ...]
    pad_id: int
    temperature: float = 1.0
    kl_coef: float = 0.05
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    whiten_rewards: bool = False
    missing_eos_penalty: float = 0.0

    @classmethod
    def of(cls, config: PpoStage, *, stop_ids: Sequence[int], pad_id: int) -> "PPOSettings":
        """The fields of the same names."""
        named = set(cls.__dataclass_fields__) - {"stop_ids", "pad_id"}
        return cls(**{name: getattr(config, name) for name in named}, stop_ids=tuple(stop_ids), pad_id=pad_id)


class ActorCritic(nn.Module):
    """Policy and value head on one trunk, in one module: one wrap, one optimizer, one clipping.

    The value head starts at zero; it is a training device and not part of the exported policy."""

    def __init__(self, policy: PreTrainedModel, *, temperature: float):
        super().__init__()
        self.policy, self.config, self.temperature = policy, policy.config, temperature
        self.value_head = nn.Linear(policy.config.hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def get_output_embeddings(self) -> nn.Module:
        """The head is no matrix of a block: optimizers ask."""
        return self.policy.get_output_embeddings()

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Trainer's call, handed on."""
        self.policy.activation_checkpointing_enable(activation_checkpointing_kwargs, every_n_layers, offload)

    def forward(self, ids: Tensor, prompt_lengths: Tensor, is_token: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the completions' tokens and values of the states before them, each (new tokens,), row
        after row. Arguments as in `Rollout`; the logits of prompts and padding are never computed."""
        states, targets = completion_states(self.policy, ids, prompt_lengths, is_token)
        logps = chosen_logps(self.policy, states, targets, temperature=self.temperature)
        return logps, self.value_head(states).squeeze(-1).float()


def completion_states(
    policy: PreTrainedModel, ids: Tensor, prompt_lengths: Tensor, is_token: Tensor
) -> tuple[Tensor, Tensor]:
    """The last hidden states that predict the completions' tokens, (new tokens, hidden size), and those tokens.

    Rows are padded on the right, so a causal model needs neither mask nor positions."""
    length = int((prompt_lengths + is_token.sum(dim=1)).max())
    hidden = policy.base_model(input_ids=ids[:, : length - 1], use_cache=False).last_hidden_state
    rows, turns = is_token.nonzero(as_tuple=True)
    places = prompt_lengths[rows] + turns
    return hidden[rows, places - 1], ids[rows, places]


def chosen_logps(policy: PreTrainedModel, states: Tensor, targets: Tensor, *, temperature: float) -> Tensor:
    """Log-probabilities of `targets`, (tokens,), at this temperature."""
    head, step = policy.get_output_embeddings(), len(states)
    if not torch.is_grad_enabled():
        step = max(1, MOST_LOGITS // policy.config.vocab_size)
    parts = [
        -F.cross_entropy(head(some).float() / temperature, wanted, reduction="none")
        for some, wanted in zip(states.split(step), targets.split(step), strict=True)
    ]
    return torch.cat(parts)


@contextmanager
def without_dropout(model: PreTrainedModel) -> Iterator[None]:
    """Every dropout of the model is zero; afterwards it is again what it was."""
    before = []
    for owner in (model.config, *model.modules()):
        names = [name for name in vars(owner) if name.endswith(("dropout", "pdrop"))]
        for name in ["p"] if isinstance(owner, nn.Dropout) else names:
            if isinstance(getattr(owner, name), float):
                before.append((owner, name, getattr(owner, name)))
                setattr(owner, name, 0.0)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


class PPOTrainer(ExactTrainerMixin, Trainer):  # type: ignore[misc]
    """Rows are prompts; an optimizer step takes completions of the current rollout."""

    first_step_must_move = False  # a first rollout may find no reward at all
    loss_is_scaled_for_ga = True  # compute_loss divides by the tokens of the whole optimizer step

    def __init__(
        self,
        *,
        model: ActorCritic,
        reference: PreTrainedModel | None,
        reward: Reward,
        settings: PPOSettings,
        args: TrainingArguments,
        rows: PromptRows,
        exact: Exact,
    ):
        """`reference` None: the policy as it is now, of which only the trainable parameters are kept twice."""
        self.settings, self.reward = settings, reward
        self.rollout: Rollout | None = None
        self._rollout_metrics: Mapping[str, float] = {}
        self._step_sums = torch.zeros(4, device=args.device)  # of policy loss, value loss, clipped tokens, tokens
        args.ignore_data_skip = True  # a resumed run does not roll out again what lies behind it
        super().__init__(model=model, args=args, rows=rows, exact=exact, train_dataset=rows)
        self.reference = reference and reference.eval().requires_grad_(False).to(self.args.device)
        self.start = StartingPoint(model.policy) if reference is None else None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over a rollout."""
        return self.settings.rollout_batch_size // self.global_batch

    @property
    def steps_per_rollout(self) -> int:
        """Checkpoints fall only between rollouts."""
        return self.settings.num_ppo_epochs * self.steps_per_epoch

    @property
    def rows_needed(self) -> int:
        """One prompt per completion."""
        return self.args.max_steps // self.steps_per_rollout * self.settings.rollout_batch_size

    def get_train_dataloader(self) -> "_RolloutLoader":  # type: ignore[override]
        """Not prepared by accelerate, whose loaders fetch one batch ahead of the optimizer."""
        return _RolloutLoader(self)

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        """Without dropout: it would make the updated policy another one than that which drew the completions."""
        with without_dropout(self._policy().policy):
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    # which rows, in which order

    def prompts_of(self, rollout: int) -> np.ndarray:
        """Rows of a rollout's prompts."""
        size = self.settings.rollout_batch_size
        return self.schedule(np.arange(rollout * size, (rollout + 1) * size))

    def places(self, rollout: int, step: int) -> np.ndarray:
        """Which completions an optimizer step of the rollout takes, (accumulation, process, micro batch): each pass
        has a keyed permutation of its own."""
        epoch, part = divmod(step, self.steps_per_epoch)
        generator = np.random.Generator(np.random.Philox(key=key(self.exact.seed, "ppo", rollout, epoch)))
        order = generator.permutation(self.settings.rollout_batch_size)
        chosen = order[part * self.global_batch : (part + 1) * self.global_batch]
        return chosen.reshape(self.args.gradient_accumulation_steps, self.args.world_size, -1)

    def rows_of_step(self, step: int) -> np.ndarray:
        """Rows of the prompts behind an optimizer step."""
        rollout, within = divmod(step, self.steps_per_rollout)
        return self.prompts_of(rollout)[self.places(rollout, within)]

    def tokens_of_step(self, step: int) -> int:
        """Prompt and new tokens that the step trained on."""
        assert self.rollout is not None
        return int(self.rollout.lengths[self.places(*divmod(step, self.steps_per_rollout)).reshape(-1)].sum())

    # the rollout

    def roll_out(self, number: int) -> Rollout:
        """The whole rollout, alike on every process."""
        rows = self.prompts_of(number)
        rollout, settings = self._complete_and_score([self.rows[row] for row in rows.tolist()], number), self.settings
        first_step = number * self.steps_per_rollout + 1
        require_finite(rollout.scores.cpu().numpy(), rows, where=f"step {first_step}")
        return with_advantages(
            rollout,
            kl_coef=settings.kl_coef,
            missing_eos_penalty=settings.missing_eos_penalty,
            whiten_rewards=settings.whiten_rewards,
            gamma=settings.gamma,
            lam=settings.lam,
        )

    def _policy(self) -> ActorCritic:
        return self.accelerator.unwrap_model(self.model)

    @torch.no_grad()
    def _complete_and_score(self, prompts: Sequence[Prompt], number: int) -> Rollout:
        """Everything but advantages, gathered from all processes."""
        share = len(prompts) // self.args.world_size
        first, size = self.args.process_index * share, _largest_divisor(share, batch_rows(self.args.device))
        longest, model = max(len(ids) for ids, _ in prompts), self._policy().eval()
        parts = [
            self._part(prompts[start : start + size], range(start, start + size), number, longest, model)
            for start in range(first, first + share, size)
        ]
        mine = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return Rollout(**{name: self.accelerator.gather(tensor.contiguous()) for name, tensor in mine.items()})

    def _part(
        self,
        examples: Sequence[Prompt],
        places: range,
        number: int,
        longest: int,
        model: ActorCritic,
    ) -> dict[str, Tensor]:
        """One batch of fixed shape: completions, log-probabilities, values, scores."""
        settings, device = self.settings, self.args.device
        prompts = [ids for ids, _ in examples]
        left, is_prompt = (tensor.to(device) for tensor in left_padded(prompts, settings.pad_id, longest))
        numbers = noise(self.exact.seed, number, places, settings.max_completion_length)
        with self.accelerator.autocast():  # drawn from the distribution that is scored
            tokens, is_token = sample(
                model.policy,
                left,
                is_prompt,
                numbers,
                stop_ids=settings.stop_ids,
                pad_id=settings.pad_id,
                temperature=settings.temperature,
            )
        ids = joined(prompts, tokens, is_token, settings.pad_id, longest + settings.max_completion_length)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        last = tokens.gather(1, is_token.sum(dim=1, keepdim=True) - 1).squeeze(1)
        scores = self.reward(prompts, unpadded(tokens, is_token), [columns for _, columns in examples])
        return {
            "ids": ids,
            "prompt_lengths": lengths,
            "is_token": is_token,
            "ended": torch.isin(last, torch.tensor(settings.stop_ids, device=device)),
            "scores": torch.tensor(scores, dtype=torch.float32, device=device),
            **self._before_update(model, ids, lengths, is_token),
        }

    def _before_update(self, model: ActorCritic, ids: Tensor, lengths: Tensor, is_token: Tensor) -> dict[str, Tensor]:
        """Log-probabilities of policy and reference, and values, each (completions, tokens), zero on padding."""
        with self.accelerator.autocast():
            logps, values = model(ids, lengths, is_token)
        restored = self.start.restored() if self.start else nullcontext()
        with restored, self.accelerator.autocast():  # which keeps cast weights: another one
            frozen = model.policy if self.reference is None else self.reference
            states, targets = completion_states(frozen, ids, lengths, is_token)
            reference = chosen_logps(frozen, states, targets, temperature=self.settings.temperature)
        flat = {"logps": logps, "values": values, "reference_logps": reference}
        empty = torch.zeros(is_token.shape, device=ids.device)
        return {name: empty.masked_scatter(is_token, tensor.float()) for name, tensor in flat.items()}

    # the update

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Summed over this micro batch, divided by the tokens of the whole optimizer step."""
        part, tokens, settings = inputs["part"], inputs["tokens"], self.settings
        logps, values = model(part.ids, part.prompt_lengths, part.is_token)
        old = {
            name: tensor[part.is_token] for name, tensor in part.tensors().items() if tensor.ndim == 2 and name != "ids"
        }
        log_ratio = logps - old["logps"]
        policy = ppo_losses.clipped_policy_loss(log_ratio, old["advantages"], cliprange=settings.cliprange)
        value = ppo_losses.clipped_value_loss(
            values, old["values"], old["returns"], cliprange_value=settings.cliprange_value
        )
        clipped = (log_ratio.detach().exp() - 1).abs() > settings.cliprange
        counted = (policy.detach(), value.detach(), clipped, torch.ones_like(clipped))
        self._step_sums = self._step_sums + torch.stack([numbers.float().sum() for numbers in counted])
        # the gradients of all processes are averaged
        loss = (policy + settings.vf_coef * value).sum() / tokens * self.args.world_size
        return (loss, {"log_ratio": log_ratio}) if return_outputs else loss

    def step_metrics(self, step: int) -> Mapping[str, float]:
        """Means over the step's tokens, and what held for its whole rollout (alike in all of its steps)."""
        mine, self._step_sums = self._step_sums, torch.zeros_like(self._step_sums)
        policy, value, clipped, tokens = self.accelerator.gather(mine).reshape(-1, 4).double().sum(dim=0).tolist()
        means = {"policy_loss": policy / tokens, "value_loss": value / tokens, "clip_fraction": clipped / tokens}
        return {**self._rollout_metrics, **means}

    def start_rollout(self, number: int) -> Rollout:
        """Make the rollout the current one."""
        self.rollout = self.roll_out(number)
        self._rollout_metrics = {"rollout": number + 1, **self.rollout.metrics()}
        return self.rollout


class _RolloutLoader:
    """Rolls out, then yields the micro batches of all passes over it: made when asked for, never ahead."""

    def __init__(self, trainer: PPOTrainer):
        self.trainer, self.dataset = trainer, trainer.train_dataset

    def __len__(self) -> int:
        return self.trainer.args.max_steps * self.trainer.args.gradient_accumulation_steps

    def __iter__(self) -> Iterator[dict[str, Any]]:
        trainer, per_rollout = self.trainer, self.trainer.steps_per_rollout
        rollouts = math.ceil(trainer.args.max_steps / per_rollout)
        for number in range(trainer.state.global_step // per_rollout, rollouts):
            whole = trainer.start_rollout(number)
            for step in range(per_rollout):
                places = trainer.places(number, step)
                tokens = whole.is_token[torch.from_numpy(places.reshape(-1))].sum()
                for micro in places[:, trainer.args.process_index]:
                    yield {"part": whole.rows(micro), "tokens": tokens}


def _largest_divisor(number: int, most: int) -> int:
    """The largest divisor of `number` up to `most`: batches of one shape, the same for every number of processes as
    long as their shares are multiples of `most`."""
    return next(size for size in range(min(number, most), 0, -1) if number % size == 0)
