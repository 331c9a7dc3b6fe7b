"""A stage whose data have no holdout trains as any other, and scores nothing."""

from pathlib import Path

import numpy as np
import pytest
from training_jobs import FORMATS, context, random_row, run, tokens_folder


@pytest.mark.parametrize("kind", ["pretrain", "sft", "reward", "dpo"])
def test_without_a_holdout_a_stage_trains_and_scores_nothing(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(5)
    table = tokens_folder(tmp_path / "rows", FORMATS[kind], [random_row(FORMATS[kind], rng) for _ in range(24)])
    metrics = run(context(tmp_path, kind, table, duration="2 steps"))
    assert metrics["steps"] == 2 and not [name for name in metrics if name.startswith("holdout_")]
