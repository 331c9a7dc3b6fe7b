"""Tasks of encoders: `masked_accuracy`, `pseudo_perplexity`, `minimal_pairs`, on texts as they are in pretraining."""

from pathlib import Path
from typing import Any

from transformers import AutoModelForMaskedLM

from pipelines.data.chat import ChatRenderer
from pipelines.data.tokens import TokenTable
from pipelines.errors import ArtifactError, DataError
from pipelines.evaluation.finetuned import load, score_row
from pipelines.evaluation.pseudo import MaskedScorer, MaskedText, read_minimal_pairs
from pipelines.recipe.evaluation import TaskConfig
from pipelines.training.inputs import Tokens, tokens_of

LIMIT = 200
"""Texts scored where the recipe names no limit: a pseudo-likelihood reads a text once for each of its tokens."""


def score_masked(
    model_folder: Path, task: TaskConfig, data: Path | None, *, device: str, seed: int
) -> list[dict[str, Any]]:
    """One row. A document longer than the model is cut, and counted as truncated."""
    model, tokens = load(AutoModelForMaskedLM, model_folder, device=device), tokens_of(model_folder)
    if tokens.mask_id is None:
        raise ArtifactError(f"{model_folder}: its tokenizer has no mask; make it with `mask_token: true`")
    scorer = MaskedScorer(model, tokens.mask_id, tokens.pad_id)
    longest = model.config.max_position_embeddings
    if task.name == "minimal_pairs":
        assert task.file is not None
        pairs = _pairs(model_folder, Path(task.file), task.limit, longest)
        value, stderr = scorer.minimal_pair_accuracy(pairs, correction="within_word_l2r")
        row = score_row(task, tokens, "minimal_pair_accuracy", value, stderr, len(pairs))
        return [row | {"task": f"minimal_pairs/{Path(task.file).stem}"}]
    assert data is not None
    table = TokenTable.open(data, "holdout")
    documents = [table.ids("input_ids", row).tolist() for row in range(min(len(table), task.limit or LIMIT))]
    texts = [text for ids in documents if (text := _document(ids[:longest], tokens)).scored]
    if not texts:
        raise DataError(f"task {task.name}: dataset '{task.data}' has no holdout; give it `holdout: 0.01`")
    if task.name == "masked_accuracy":
        value, stderr = scorer.masked_accuracy(texts, seed=seed)
    else:
        value, stderr = scorer.pseudo_perplexity(texts)
    row = score_row(task, tokens, task.name, value, stderr, len(texts))
    return [row | {"truncated": sum(len(ids) > longest for ids in documents)}]


def _document(ids: list[int], tokens: Tokens) -> MaskedText:
    """A document of a tokens artifact, its own BOS and EOS included."""
    scored = [place for place, token in enumerate(ids) if token not in (tokens.bos_id, tokens.eos_id)]
    return MaskedText(ids, scored, [None] * len(ids))


def _pairs(model_folder: Path, file: Path, limit: int | None, longest: int) -> list[tuple[MaskedText, MaskedText]]:
    """Sentences as documents; tokens of a word that come later are masked with it (arXiv 2305.10588)."""
    renderer = ChatRenderer.load(model_folder)
    first = [renderer.bos_id] if renderer.add_bos_token else []

    def text(sentence: str) -> MaskedText:
        encoding = renderer.tokenizer.encode(sentence, add_special_tokens=False)
        ids = [*first, *encoding.ids, renderer.eos_id]
        if len(ids) > longest:
            raise DataError(f"{file}: {sentence!r} has {len(ids)} tokens, and the model reads {longest}; leave it out")
        places = list(range(len(first), len(ids) - 1))
        return MaskedText(ids, places, [*([None] * len(first)), *encoding.word_ids, None])

    return [(text(good), text(bad)) for good, bad in read_minimal_pairs(file)[:limit]]
