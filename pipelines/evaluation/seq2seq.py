"""Encoder-decoders under lm-eval: its own HFLM scores them, on rows of ids as training makes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForSeq2SeqLM

from pipelines.data.chat import ChatRenderer
from pipelines.errors import DataError
from pipelines.evaluation.harness import before_stops, new_tokens
from pipelines.evaluation.subject import BATCH_SIZE
from pipelines.training.holdout import in_order
from pipelines.training.inputs import pretrained, tokens_of
from pipelines.training.writing import write


class Seq2SeqLM(HFLM):
    """The source is the prompt with the token that ends it; the target begins a row of its own, so the space between
    them falls away. Every process has all requests and answers; the model's work is shared out."""

    template_digest: str | None = None

    def __init__(self, folder: Path, *, base: Path | None = None, device: str = "cpu", batch_size: int | None = None):
        """An adapter in `folder` is merged into its `base`."""
        state = PartialState(cpu=device == "cpu")
        self.tokens, self.renderer = tokens_of(folder), ChatRenderer.load(folder)
        model: Any = pretrained(AutoModelForSeq2SeqLM, folder, self.tokens, base=base)
        model = model.to(state.device).eval()
        super().__init__(
            pretrained=model,
            tokenizer=self.tokens.tokenizer,  # type: ignore[arg-type]
            backend="seq2seq",
            max_length=model.config.max_position_embeddings,
            batch_size=batch_size or BATCH_SIZE,
        )
        self._batch = batch_size or BATCH_SIZE
        self.truncated = 0
        """Sources whose beginning was cut off so far, since they did not fit the model."""

    @property
    def settings(self) -> dict[str, Any]:
        """What scores of two models must share to be compared."""
        return {"bos_policy": "none", "dtype": str(self.model.dtype).removeprefix("torch.")}

    def source(self, prompt: str) -> list[int]:
        """What the encoder reads."""
        ids = [*self.renderer.encode_text(prompt.rstrip()), self.tokens.eos_id]
        self.truncated += len(ids) > self.max_length
        return ids[-self.max_length :]

    def target(self, continuation: str) -> list[int]:
        """What the decoder is scored on, without an end."""
        ids = self.renderer.encode_text(continuation.lstrip())
        if not 0 < len(ids) <= self.max_length:
            raise DataError(
                f"the target {continuation[:40]!r} has {len(ids)} tokens; the model can say 1 to {self.max_length}"
            )
        return ids

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Sum of log-probabilities of each target in nats, and whether greedy decoding would write it."""
        texts: list[tuple[str, str]] = [request.args[:2] for request in requests]  # type: ignore[misc]
        rows = [((prompt, said), self.source(prompt), self.target(said)) for prompt, said in texts]
        # The batches that HFLM would make of all rows, longest first; ranks take turns with them.
        order = sorted(range(len(rows)), key=lambda number: _longest_first(*rows[number][1:]))
        state, answers = PartialState(), list[tuple[int, tuple[float, bool]]]()
        with torch.inference_mode():
            for turn, start in enumerate(range(0, len(order), self._batch)):
                if turn % state.num_processes == state.process_index:
                    batch = order[start : start + self._batch]
                    found = self._loglikelihood_tokens([rows[number] for number in batch], disable_tqdm=True)
                    answers += zip(batch, found, strict=True)
        return in_order(answers)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers up to a stop string. HFLM's own would bound an answer by the longest prompt of its batch."""
        answers = [""] * len(requests)
        groups: dict[int, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(self._room(request.args[1]), []).append(number)
        for most, numbers in groups.items():
            sources = [self.source(requests[number].args[0]) for number in numbers]
            for number, ids in zip(numbers, self._written(sources, most), strict=True):
                until = requests[number].args[1].get("until") or []
                answers[number] = before_stops(self.renderer.decode(ids), until)
        return answers

    def _room(self, settings: Any) -> int:
        most = new_tokens(settings, 2 * self.max_length)
        if most >= self.max_length:
            raise DataError(f"{most} new tokens do not fit into the model's {self.max_length} positions; ask for fewer")
        return most

    def _written(self, sources: Sequence[list[int]], most: int) -> list[list[int]]:
        return write(self.model, sources, self.tokens, max_new_tokens=most)  # type: ignore[arg-type]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise DataError(
            "it asks for the likelihood of whole texts, and an encoder-decoder says targets; ask a causal LM"
        )

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        raise DataError("encoder-decoders learn no conversations here; leave apply_chat_template and `chat` out")


def _longest_first(source: list[int], target: list[int]) -> tuple[int, tuple[int, ...]]:
    """HFLM's own key."""
    return -len(source) - len(target), (*source, *target)
