"""Scores of an encoder and of an encoder-decoder, in one process or in several: a script for tests."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from lm_eval.api.instance import Instance
from tiny_subject import tiny_tokenizer

from custom_models import EncoderForMaskedLM
from pipelines.evaluation.pseudo import MaskedScorer, MaskedText
from pipelines.evaluation.seq2seq import Seq2SeqLM
from pipelines.recipe.model import ModelConfig
from pipelines.run.worker import leave_group
from pipelines.training.inputs import fresh_model, tokens_of
from pipelines.training.saving import save_model

WORDS = ("mill", "barn", "red drum", "old man of the village", "the end", "garden", "a blue kite")


def model_folder(root: Path, architecture: str) -> Path:
    """Random weights, but not flat."""
    (root / "words").mkdir(parents=True, exist_ok=True)
    tiny_tokenizer(root / "words")
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"max_position_embeddings": 48, "architecture": architecture}
    model = fresh_model(ModelConfig.model_validate(sizes), tokens_of(root / "words"), 1)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    save_model(model, root / "words", root / architecture)
    return root / architecture


def _texts() -> list[MaskedText]:
    rng = np.random.default_rng(2)
    rows = [[0, *rng.integers(5, 90, int(length)).tolist(), 1] for length in rng.integers(2, 30, 14)]
    return [MaskedText(ids, list(range(1, len(ids) - 1)), [None] * len(ids)) for ids in rows]


def _passes(model: torch.nn.Module) -> list[int]:
    """Grows with every forward pass."""
    seen: list[int] = []
    model.register_forward_hook(lambda *given: seen.append(1))
    return seen


def main() -> None:
    """`python tests/scoring_jobs.py task.json`: scores into `root`/job/metrics.json, this rank's passes beside it."""
    task = json.loads(Path(sys.argv[1]).read_text())
    root, rank = Path(task["root"]), os.environ.get("RANK", "0")
    PartialState(cpu=True)
    encoder = EncoderForMaskedLM.from_pretrained(task["encoder"]).eval()
    masked = _passes(encoder)
    scorer = MaskedScorer(encoder, mask_id=3, pad_id=2, tokens_per_forward=64)
    found: dict[str, Any] = {
        "perplexity": scorer.pseudo_perplexity(_texts()),
        "accuracy": scorer.masked_accuracy(_texts(), seed=3),
        "likelihoods": scorer.pseudo_log_likelihoods(_texts()),
    }
    lm = Seq2SeqLM(Path(task["encoder_decoder"]), batch_size=2)
    targets = _passes(lm.model)
    asked = [
        Instance("loglikelihood", {}, (f"Where is {one}?", f" {two}"), 0) for one in WORDS for two in reversed(WORDS)
    ]
    found["targets"] = lm.loglikelihood(asked)
    (root / "job").mkdir(exist_ok=True)
    (root / "job" / f"passes-{rank}.json").write_text(json.dumps([len(masked), len(targets)]))
    if rank == "0":
        (root / "job" / "metrics.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
    leave_group(together=True)
