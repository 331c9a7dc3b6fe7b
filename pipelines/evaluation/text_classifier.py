"""A classifier of an earlier stage asked about texts as they come, on one thread of the CPU."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

import custom_models  # noqa: F401  (registers the classes that a model folder names)
from pipelines.data.chat import ChatRenderer
from pipelines.data.collate import padded
from pipelines.errors import DataError
from pipelines.recipe.words import did_you_mean
from pipelines.training.holdout import fixed_batches
from pipelines.training.inputs import Tokens, tokens_of, trained_classifier
from pipelines.training.own_models import register_own_code

CHARACTERS = 20
"""Of a text for each token that is read: far more than any token has on the average, and so the rest need not be cut
into tokens."""


@dataclass(frozen=True)
class TextClassifier:
    """The probability of one label. The number of threads is always one: that of the machine would decide the last
    digits."""

    model: PreTrainedModel
    renderer: ChatRenderer
    tokens: Tokens
    label: int
    """Its number."""
    max_length: int

    @classmethod
    def load(cls, folder: Path, base: Path | None, label: str, *, max_length: int | None) -> "TextClassifier":
        """`max_length`: tokens that are read of a text, with the marks around them; None for all positions. An adapter
        is merged into its `base`."""
        register_own_code([folder, *([base] if base else [])])
        model = trained_classifier(folder, base).eval()
        most, names = model.config.max_position_embeddings, model.config.id2label
        if model.config.problem_type == "regression":
            raise DataError("classifier: it tells a number, and no labels; train one on labels that are words")
        if label not in names.values():
            known = list(names.values())
            hint = did_you_mean(label, known)
            raise DataError(f"classifier: it knows no label '{label}'{hint}; it knows {', '.join(known)}")
        if max_length is not None and max_length > most:
            raise DataError(f"classifier: max_length {max_length} is more than the model's {most} positions; lower it")
        number = next(number for number, name in names.items() if name == label)
        return cls(model, ChatRenderer.load(folder), tokens_of(folder), number, max_length or most)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Of the label, for each text; shape (texts,), float64."""
        rows = self._rows(texts)
        found = np.zeros(len(rows))
        with _one_thread(), torch.inference_mode():
            for places in fixed_batches(np.array([len(row) for row in rows], np.int64)):
                found[places] = self._scored([rows[place] for place in places])
        return found

    def _rows(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`[bos] text [eos]`, as in its training."""
        bos = [] if self.tokens.first_id is None else [self.tokens.first_id]
        room = self.max_length - len(bos) - 1
        encoded = self.renderer.encode_texts([text[: CHARACTERS * self.max_length] for text in texts])
        return [np.array([*bos, *ids[:room], self.tokens.eos_id], np.int64) for ids in encoded]

    def _scored(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        ids, mask = (torch.from_numpy(part.astype(np.int64)) for part in padded(rows, self.tokens.pad_id))
        inputs = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self.tokens.tokenizer.model_input_names:
            inputs["token_type_ids"] = torch.zeros_like(ids)
        logits = self.model(**inputs).logits.double()
        is_several = self.model.config.problem_type == "multi_label_classification"
        shares = logits.sigmoid() if is_several else logits.softmax(-1)
        return shares[:, self.label].numpy()


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
