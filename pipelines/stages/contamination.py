"""The contamination stage: what a dataset has of the benchmarks' questions, for the report alone."""

from pipelines.plan.jobs import ContaminationJob
from pipelines.stages.base import Metrics, StageContext
from pipelines.stages.clean_contamination import tell_contaminated
from pipelines.stages.clean_steps import Shards, contamination_metrics


def run(ctx: StageContext) -> Metrics:
    """Write contamination.json."""
    config = ctx.job.config
    assert isinstance(config, ContaminationJob)
    for folder in (ctx.output, ctx.checkpoints, ctx.record):
        folder.mkdir(parents=True, exist_ok=True)
    tell_contaminated(Shards(ctx), config.format, config.decontaminate)
    return contamination_metrics(ctx.output)
