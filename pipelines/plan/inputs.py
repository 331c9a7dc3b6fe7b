"""What a job reads, as an input of it."""

from collections.abc import Sequence

from pipelines.plan.jobs import Input, Job


def read(
    job: Job, share: float | None = None, *, later_shares: tuple[float, ...] = (), max_epochs: float | None = None
) -> Input:
    return Input(
        job=job.name, fingerprint=job.fingerprint, share=share, later_shares=later_shares, max_epochs=max_epochs
    )


def mixed(parts: Sequence[Input]) -> dict[str, Input]:
    """Roles of a mixture, by fingerprint: neither names nor their order in the file decide."""
    inputs = sorted(parts, key=lambda item: (item.fingerprint, item.share, item.later_shares))
    return {f"data.{index}": item for index, item in enumerate(inputs)}
