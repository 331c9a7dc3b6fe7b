"""What data, clean, tokenizer and tokens jobs will read, take and leave, by the measured rates of plan/rates.py."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.plan import rates
from pipelines.plan.derived import CleanJob, DataJob, TokensJob
from pipelines.plan.estimate import Estimate, estimate
from pipelines.plan.hub_sizes import UNKNOWN, of_hub
from pipelines.plan.jobs import Job, Plan
from pipelines.plan.sizes import Source, of_files
from pipelines.recipe.data import Dataset
from pipelines.recipe.stages import TokenizerStage

Finished = Mapping[str, Mapping[str, Any]]
"""Name of a job that the store has -> its metrics: real numbers, which come before any estimate."""


def data_estimates(plan: Plan, finished: Finished, workers: int | None) -> dict[str, Estimate]:
    """Name -> estimate of each job that makes data, a tokenizer or tokens. `workers`: processes that read and encode;
    None where they are a cluster's, whose number nobody knows here."""
    to_make = {job.name: job for job in plan.jobs if job.name not in finished}
    hub = of_hub(
        {
            name: job.config.dataset
            for name, job in to_make.items()
            if isinstance(job.config, DataJob) and job.config.dataset.hub
        }
    )
    found: dict[str, Estimate] = {}
    for job in plan.jobs:
        config, inputs = job.config, [found[item.job] for item in job.inputs.values() if item.job in found]
        if job.name in finished:
            made = _real(finished[job.name])
        elif isinstance(config, DataJob):
            made = _of_data(plan, job, config.dataset, hub.get(job.name, UNKNOWN), workers)
        elif isinstance(config, CleanJob):
            made = _of_clean(job, config, found, workers)
        elif isinstance(config, TokenizerStage):
            made = _of_tokenizer(config, inputs)
        elif isinstance(config, TokensJob):
            made = _of_tokens(plan, job, found, finished, workers)
        else:
            continue
        if job.kind in rates.KINDS:
            found[job.name] = made
    return found


def epoch_tokens(job: Job, found: Mapping[str, Estimate]) -> int | None:
    """What a stage that trains on one dataset sees in a pass over it."""
    names = {item.job for role, item in job.inputs.items() if role.startswith("data.")}
    made = found.get(next(iter(names))) if len(names) == 1 else None
    return made.tokens if made else None


def _real(metrics: Mapping[str, Any]) -> Estimate:
    rows = metrics.get("rows_used", metrics.get("rows"))
    tokens = metrics.get("train_tokens", metrics.get("tokens"))
    return Estimate(basis="finished", text_bytes=metrics.get("bytes"), rows=rows, tokens=tokens)


def _wall(seconds: float, size: float, workers: int | None) -> float | None:
    """Of work in parts, on so many processes."""
    return None if workers is None else seconds / max(1, min(workers, -(-int(size) // rates.PART_BYTES)))


# --- data -------------------------------------------------------------------------------------------------------------


def _of_data(plan: Plan, job: Job, dataset: Dataset, hub: Source, workers: int | None) -> Estimate:
    if dataset.builtin:
        return _of_world(dataset)
    source = hub if dataset.hub else of_files(dataset, [Path(path) for path in job.files])
    if source.bytes_in is None or source.text is None:
        return Estimate(basis=source.basis)
    size = sum(source.unpacked.values())
    seconds = rates.DATA_START_SECONDS + sum(map(_reading, source.unpacked, source.unpacked.values()))
    seconds += _filtering(dataset, source.text) + _classifying(plan, job, dataset, source)
    at_once = min(workers or 1, -(-source.bytes_in // rates.PART_BYTES)) if dataset.hub else 0
    disk = int(source.text * rates.ROWS_PER_TEXT) + min(source.bytes_in, at_once * rates.HUB_FILE_BYTES)
    is_whole = dataset.limit is not None or dataset.layout is not None
    return Estimate(
        basis=source.basis,
        bytes_in=source.bytes_in,
        unpacked_bytes=size,
        text_bytes=source.text,
        rows=source.rows,
        core_seconds=seconds,
        wall_seconds=_wall(seconds, source.bytes_in, 1 if is_whole else workers),
        disk_bytes=disk,
        kept_bytes=int(source.text * rates.ROWS_PER_TEXT),
    )


def _reading(kind: str, size: int) -> float:
    """Seconds of one core for so many unpacked bytes."""
    suffix = Path(kind).suffix
    unpacking = size / rates.UNPACK[suffix] if suffix in rates.UNPACK else 0.0
    content = kind.removesuffix(suffix) if unpacking else kind
    return unpacking + size / rates.READ.get(content, rates.READ[".jsonl"])


def _filtering(dataset: Dataset, text: int) -> float:
    kinds = [item.kind for item in dataset.quality.filters] if dataset.quality else []
    measures = {name for kind in kinds for name in rates.MEASURED_BY.get(kind, ())}
    each = sum(text / rates.FILTER[kind] for kind in kinds if kind != "classifier")
    return each + sum(text / rates.MEASURE[name] for name in measures)


def _classifying(plan: Plan, job: Job, dataset: Dataset, source: Source) -> float:
    """Seconds of one core for the filter `classifier`; 0 for one whose size is not known before it is here."""
    asked = dataset.quality.classifier if dataset.quality else None
    if asked is None or "classifier" not in job.inputs:
        return 0.0
    size = estimate(plan, plan.by_name[job.inputs["classifier"].job]).parameters or 0
    model, text = plan.recipe.model, source.text or 0
    longest = asked.max_length or (model.max_position_embeddings if model else 0)
    rows = source.rows or text // rates.ROW_BYTES
    tokens = min(text / rates.bytes_per_token("byte_level_bpe", rates.VOCAB_SIZE), rows * longest)
    return size * tokens / rates.CLASSIFIED


def _of_clean(job: Job, config: CleanJob, found: Mapping[str, Estimate], workers: int | None) -> Estimate:
    """As if nothing were removed: how much that is, only the job knows."""
    own = found.get(job.inputs["dataset"].job, Estimate())
    others = [found.get(item.job, Estimate()) for role, item in job.inputs.items() if role.startswith("earlier.")]
    if own.text_bytes is None or any(other.text_bytes is None for other in others):
        return Estimate(basis=UNKNOWN.basis)
    text = own.text_bytes + sum(other.text_bytes or 0 for other in others)
    rows = (own.rows or 0) + sum(other.rows or 0 for other in others)
    seconds, working = rates.CLEAN_START_SECONDS, 0
    if config.deduplicate:
        seconds += text / rates.DEDUPLICATE
        working += rows * rates.SIGNATURE_BYTES
    if config.deduplicate and config.deduplicate.spans:
        seconds += text / rates.SPANS
        working += int(text * rates.SPANS_DISK)
    if config.decontaminate:
        seconds += own.text_bytes / rates.DECONTAMINATE
    kept = int(own.text_bytes * rates.ROWS_PER_TEXT)
    return Estimate(
        basis="the text before cleaning",
        bytes_in=text,
        text_bytes=own.text_bytes,
        rows=own.rows,
        core_seconds=seconds,
        wall_seconds=_wall(seconds, text, workers),
        disk_bytes=kept + working,
        kept_bytes=kept,
    )


def _of_world(dataset: Dataset) -> Estimate:
    track = rates.BUILTIN[(dataset.builtin or "").removeprefix("microworld/")]
    rows = min(track.train, dataset.limit or track.train) + (track.holdout if dataset.holdout else 0)
    seconds, disk = rates.DATA_START_SECONDS + rows * track.seconds, int(rows * track.disk)
    return Estimate(
        text_bytes=int(rows * track.text),
        rows=rows,
        core_seconds=seconds,
        wall_seconds=seconds,
        disk_bytes=disk,
        kept_bytes=disk,
    )


# --- tokenizers and tokens --------------------------------------------------------------------------------------------


def _of_tokenizer(config: TokenizerStage, inputs: list[Estimate]) -> Estimate:
    sizes = [item.text_bytes for item in inputs]
    disk = rates.TOKENIZER_BYTES + rates.ENTRY_BYTES * (config.vocab_size or 0)
    made = Estimate(disk_bytes=disk, kept_bytes=disk)
    if config.source is not None:
        return made  # nothing is learnt
    if None in sizes:
        return replace(made, basis=UNKNOWN.basis)
    text = sum(size for size in sizes if size is not None)
    learnt = min(text, config.max_bytes)
    seconds = rates.TOKENIZER_START_SECONDS + learnt / rates.LEARN[config.algorithm]
    return replace(made, bytes_in=text, text_bytes=learnt, core_seconds=seconds, wall_seconds=seconds)


def _of_tokens(
    plan: Plan, job: Job, found: Mapping[str, Estimate], finished: Finished, workers: int | None
) -> Estimate:
    data, name = found.get(job.inputs["dataset"].job), job.inputs["tokenizer"].job
    if data is None or data.text_bytes is None:
        return Estimate(basis=UNKNOWN.basis)
    config, real = plan.by_name[name].config, finished.get(name, {})
    stage = config if isinstance(config, TokenizerStage) and config.source is None else None
    algorithm = stage.algorithm if stage else "byte_level_bpe"
    vocab_size = int(real.get("vocab_size") or (stage.vocab_size if stage else None) or rates.VOCAB_SIZE)
    per_token = float(real.get("bytes_per_token") or rates.bytes_per_token(algorithm, vocab_size))
    rows = data.rows or data.text_bytes // rates.ROW_BYTES
    layout = rates.TOKENS[job.config.format]  # type: ignore[union-attr]
    tokens = int(data.text_bytes / per_token + rows * layout.tokens_per_row)
    bytes_of_id = 2 if vocab_size <= 1 << 16 else 4
    disk = tokens * (bytes_of_id + layout.mask) + rows * layout.bytes_per_row + int(layout.text * data.text_bytes)
    seconds = rates.TOKENS_START_SECONDS + data.text_bytes / rates.ENCODE[algorithm]
    known = "bytes per token of the finished tokenizer" if real.get("bytes_per_token") else "usual bytes per token"
    rest = " and the finished text" if data.basis == "finished" else ""
    return Estimate(
        basis=known + rest,
        bytes_in=data.text_bytes,
        text_bytes=data.text_bytes,
        rows=rows,
        tokens=tokens,
        core_seconds=seconds,
        wall_seconds=_wall(seconds, data.text_bytes, workers),
        disk_bytes=disk,
        kept_bytes=disk,
    )
