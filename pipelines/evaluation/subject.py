"""The model under evaluation: its own tokens, its log-likelihoods, its greedy completions, over all processes."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import PreTrainedModel

from pipelines.data.chat import ChatRenderer
from pipelines.errors import DataError
from pipelines.training.generation import left_padded, sample, unpadded
from pipelines.training.inputs import causal_lm, tokens_of

BATCH_SIZE = 32
"""Rows per forward pass where the launch settings name none."""
MOST_LOGITS = 1 << 25
"""Logits held at a time, 128 MB: with a large vocabulary a batch's would not fit."""

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """Score `target` after `context`; both are ids and neither is empty."""

    context: list[int]
    target: list[int]


@dataclass
class Subject:
    """A causal LM with its tokenizer. Every method gives every process the whole result."""

    model: PreTrainedModel
    tokens: ChatRenderer
    """Text and conversations into ids, exactly as in training."""
    batch_size: int = BATCH_SIZE
    rank: int = 0
    world_size: int = 1
    truncated: int = field(default=0, init=False)
    """Contexts that were cut from the left so far, since they did not fit the model."""

    @classmethod
    def load(
        cls, folder: Path, *, base: Path | None = None, device: str = "cpu", batch_size: int | None = None
    ) -> "Subject":
        """The weights in float32, of an adapter merged into its `base`; `device` is cpu or gpu, this process' own."""
        state = PartialState(cpu=device == "cpu")
        model = causal_lm(folder, tokens_of(folder), base=base)
        return cls(
            model.to(state.device).eval(),
            ChatRenderer.load(folder),
            batch_size=batch_size or BATCH_SIZE,
            rank=state.process_index,
            world_size=state.num_processes,
        )

    @property
    def max_length(self) -> int:
        return self.model.config.max_position_embeddings

    @property
    def bos(self) -> list[int]:
        """What every text starts with: BOS exactly when training put it there."""
        return [self.tokens.bos_id] if self.tokens.add_bos_token else []

    @property
    def settings(self) -> dict[str, Any]:
        """What scores of two models must share to be compared."""
        return {"bos_policy": "bos" if self.bos else "none", "dtype": str(self.model.dtype).removeprefix("torch.")}

    @property
    def template_digest(self) -> str | None:
        """None where a model made elsewhere has no chat template."""
        return sha256(self.tokens.template.source.encode()).hexdigest() if self.tokens.has_template else None

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, without BOS; text that spells a special token is plain characters."""
        return self.tokens.encode_text(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return self.tokens.decode(ids)

    def log_likelihoods(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
        """(sum of log-probabilities in nats, whether the target is what greedy decoding would write) of each request.

        A target too long for the model is scored part by part, each after as much of what is before it as fits.
        """
        parts = [self._parts(request) for request in requests]
        scored = iter(self._log_likelihoods([part for request in parts for part in request]))
        found = [[next(scored) for _ in request] for request in parts]
        return [(sum(value for value, _ in request), all(greedy for _, greedy in request)) for request in found]

    def _parts(self, request: Request) -> list[Request]:
        if len(self.bos) + len(request.target) <= self.max_length:
            return [request]
        ids, start, step = request.context + request.target, len(request.context), self.max_length // 2
        return [Request(ids[:place], ids[place : place + step]) for place in range(start, len(ids), step)]

    def _log_likelihoods(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
        """Requests that differ in nothing but their last target token share one forward pass."""
        shared: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            shared[self._inputs(request)].append(number)
        rows = sorted(shared, key=lambda ids: (-len(ids), ids))
        found: dict[int, tuple[float, bool]] = {}
        for batch in self._own_batches(rows):
            found |= self._score(batch, [[(n, requests[n].target) for n in shared[row]] for row in batch])
        merged = self._gather(found)
        return [merged[number] for number in range(len(requests))]

    def complete(self, prompts: Sequence[list[int]], *, max_new_tokens: int) -> list[list[int]]:
        """Greedy completions, ending before the first stop token."""
        fitted = [self.fit(prompt, max_new_tokens) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda number: (-len(fitted[number]), number))
        found: dict[int, list[int]] = {}
        for batch in self._own_batches(order):
            completions = self._generate([fitted[number] for number in batch], max_new_tokens)
            found |= dict(zip(batch, completions, strict=True))
        merged = self._gather(found)
        return [merged[number] for number in range(len(prompts))]

    def fit(self, context: list[int], room: int) -> list[int]:
        """A context that leaves room for so many tokens; what is too much is cut behind BOS, and counted."""
        most = self.max_length - room
        if most < len(self.bos) + 1:
            raise DataError(
                f"{room} tokens do not fit beside a prompt into the model's {self.max_length}; ask for fewer"
            )
        if len(context) <= most:
            return context
        self.truncated += 1
        kept = self.bos if context[: len(self.bos)] == self.bos else []
        return kept + context[len(context) - most + len(kept) :]

    def _inputs(self, request: Request) -> tuple[int, ...]:
        """All ids but the last target, which is only ever predicted."""
        return tuple((self.fit(request.context, len(request.target) - 1) + request.target)[:-1])

    def _own_batches(self, rows: Sequence[T]) -> list[Sequence[T]]:
        """This process' share of the rows: neighbours, alike in length, go to different processes."""
        own = rows[self.rank :: self.world_size]
        return [own[start : start + self.batch_size] for start in range(0, len(own), self.batch_size)]

    def _gather(self, found: dict[int, T]) -> dict[int, T]:
        """The results of all processes."""
        if self.world_size == 1:
            return found
        parts: list[dict[int, T]] = [{} for _ in range(self.world_size)]
        torch.distributed.all_gather_object(parts, found)
        return {number: value for part in parts for number, value in part.items()}

    @torch.inference_mode()
    def _score(
        self, rows: Sequence[tuple[int, ...]], targets: Sequence[Sequence[tuple[int, list[int]]]]
    ) -> dict[int, tuple[float, bool]]:
        """Right padding needs no mask: nothing real comes after it."""
        width = len(rows[0])
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=self.model.device)
        hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        found: dict[int, tuple[float, bool]] = {}
        for number, row in enumerate(rows):
            for request, target in targets[number]:
                found[request] = self._score_target(hidden[number, len(row) - len(target) : len(row)], target)
        return found

    def _score_target(self, hidden: Tensor, target: list[int]) -> tuple[float, bool]:
        """`hidden`, (tokens, hidden size), are the states that predict the target."""
        head, wanted = self.model.get_output_embeddings(), torch.tensor(target, device=hidden.device)
        step = max(1, MOST_LOGITS // self.model.config.vocab_size)
        total, is_greedy = 0.0, True
        for states, ids in zip(hidden.split(step), wanted.split(step), strict=True):
            log_probs = head(states).float().log_softmax(-1)
            total += log_probs.gather(1, ids[:, None]).double().sum().item()
            is_greedy = is_greedy and bool((log_probs.argmax(-1) == ids).all())
        return total, is_greedy

    def _generate(self, prompts: Sequence[list[int]], max_new_tokens: int) -> list[list[int]]:
        ids, is_token = left_padded(prompts, self.tokens.pad_id)
        tokens, is_new = sample(
            self.model,
            ids.to(self.model.device),
            is_token.to(self.model.device),
            torch.zeros(len(prompts), max_new_tokens),
            stop_ids=self.tokens.stop_ids,
            pad_id=self.tokens.pad_id,
            temperature=0,
        )
        stops = set(self.tokens.stop_ids)
        return [row[:-1] if row[-1:] and row[-1] in stops else row for row in unpadded(tokens, is_new)]
