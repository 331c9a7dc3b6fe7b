"""What the steps of cleaning share: the corpus they compare in, the verdicts they give, and work in shards."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cleaning.verdicts import Verdicts
from pipelines.data.corpus import Corpus
from pipelines.data.shards import Work, make_shards
from pipelines.stages.base import StageContext

SMALL = 32 << 20
"""Bytes below which starting processes takes longer than the work."""


@dataclass(frozen=True)
class Shards:
    """Parts of a job's work, kept until its artifact is there."""

    ctx: StageContext

    def make(self, name: str, work: Work, parts: Sequence[Mapping[str, Any]]) -> list[Path]:
        """The folder of every part, in their order."""
        ctx, launch = self.ctx, self.ctx.launch
        is_small = sum(part.get("bytes", SMALL) for part in parts) < SMALL
        workers = 1 if is_small else launch.workers
        folder = ctx.checkpoints / "parts" / name
        return make_shards(work, parts, folder, engine=launch.engine, workers=workers, record=ctx.record)


Step = Callable[[Corpus, Verdicts, Shards], None]
"""Removes training rows of the corpus's last source. Its result must not depend on the number of workers."""

CONTAMINATION = "contamination.json"
"""Of an output: what its rows have of the benchmarks' questions."""


def contamination_metrics(output: Path) -> dict[str, float | int | str]:
    """Of what was written into an output, if it was."""
    if not (output / CONTAMINATION).exists():
        return {}
    facts = json.loads((output / CONTAMINATION).read_text())
    metrics: dict[str, float | int | str] = {"contaminated": facts["contaminated"]}
    for task in facts["tasks"]:
        metrics |= {f"contaminated_{task['task']}": task["documents"], f"found_{task['task']}": task["found"]}
    return metrics
