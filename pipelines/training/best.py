"""The best weights seen on the holdout, kept while training goes on; a part of every checkpoint."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pipelines.errors import DataError
from pipelines.training.checkpoints import Tensors, weights


@dataclass
class Best:
    """Scores come each `every` steps and after the last one; of equals the earliest is the best."""

    metric: str
    """Without `holdout_`, which its name in the scores begins with."""
    higher_is_better: bool
    every: int
    step: int = 0
    """0: none yet."""
    value: float = math.nan
    kept: Tensors = field(default_factory=dict)
    """Copies on the CPU, alike on every rank."""

    def is_due(self, step: int, max_steps: int) -> bool:
        return step % self.every == 0 or step >= max_steps

    def see(self, step: int, scores: Mapping[str, float], model: torch.nn.Module) -> None:
        """Keep these weights if they are the best so far. A score that is missing or no number never is."""
        value = scores.get(f"holdout_{self.metric}", math.nan)
        better = value > self.value if self.higher_is_better else value < self.value
        if better or (self.step == 0 and not math.isnan(value)):
            self.step, self.value = step, float(value)
            self.kept = {name: tensor.cpu().clone() for name, tensor in weights(model).items()}

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"step": self.step, "value": self.value if self.step else 0.0, "kept": self.kept}

    def load(self, state: Mapping[str, Any]) -> None:
        """What `state` gave."""
        self.step, self.kept = state["step"], dict(state["kept"])
        self.value = state["value"] if self.step else math.nan

    def restore(self, model: torch.nn.Module) -> None:
        """Give the model these weights. DataError where no step had a score."""
        if self.step == 0:
            raise DataError(
                f"{self.metric} of the holdout was not a number after any step, so no weights are the best; choose "
                "another metric_for_best_model, or give the data a larger holdout"
            )
        with torch.no_grad():
            for name, tensor in weights(model).items():
                tensor.copy_(self.kept[name])

    def metrics(self) -> dict[str, float | int | str]:
        """Numbers for the report."""
        return {"best_metric": self.metric, "best_step": self.step, "best_value": self.value}
