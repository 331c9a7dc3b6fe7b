"""Job `vocabulary`: a tokenizer beside others, finished ones and ones of other sizes, all on the same text."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pipelines.data.chat import TOKENIZER
from pipelines.errors import DataError
from pipelines.plan.derived import VocabularyJob
from pipelines.recipe.tokenizer import Reference
from pipelines.stages.base import Metrics, StageContext
from pipelines.stages.tokenizer_families import train
from pipelines.stages.tokenizer_measures import HELD_OUT_CHARACTERS, PROBE_BYTES, lengths, measured
from pipelines.stages.tokenizer_sample import Sample, held_out

SWEEP_BYTES = 20_000_000
"""Text that tokenizers of other sizes learn from: a part, since only their order among each other matters."""
FILE = "vocabulary.json"


def run(ctx: StageContext) -> Metrics:
    """Measure the stage's tokenizer and those it is compared with; train one of each size on a part of the text."""
    config = ctx.job.config
    assert isinstance(config, VocabularyJob)
    shares = [(ctx.inputs[role], share) for role, share in ctx.job.mixture]
    sample = Sample(shares, config.tokenizer.max_bytes)
    shown = list(sample.part(PROBE_BYTES))
    sources = {role: held_out(ctx.inputs[role], HELD_OUT_CHARACTERS) for role, _ in ctx.job.mixture}
    own = Tokenizer.from_file(str(ctx.inputs["tokenizer"] / TOKENIZER))
    facts: dict[str, Any] = {
        "own": measured(own, shown, sources),
        "compare": [_compared(reference, shown, sources) for reference in config.compare],
        "sweep": _sweep(config, shares, [text for texts in sources.values() for text in texts]),
    }
    ctx.output.mkdir(parents=True, exist_ok=True)
    (ctx.output / FILE).write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
    return {
        "bytes_per_token": facts["own"]["bytes_per_token"],
        **{f"bytes_per_token_{one['name']}": one["bytes_per_token"] for one in facts["compare"]},
        **{f"bytes_per_token_{one['asked']}": one["bytes_per_token"] for one in facts["sweep"]},
    }


def _compared(reference: Reference, shown: Sequence[str], sources: dict[str, list[str]]) -> dict[str, Any]:
    from pipelines.stages.tokenizer_source import finished

    tokenizer = finished(reference).tokenizer
    name = reference.hub or Path(reference.path or "").name
    return {"name": name, **measured(tokenizer, shown, sources)}


def _sweep(config: VocabularyJob, shares: Sequence[tuple[Path, float]], texts: Sequence[str]) -> list[dict[str, Any]]:
    """Bytes per token of each size, on text that was not learnt from."""
    if not config.sweep:
        return []
    sample = Sample(shares, min(SWEEP_BYTES, config.tokenizer.max_bytes))
    found = []
    tokenizer: Tokenizer | None = None
    for size in sorted(config.sweep, reverse=True):
        stage = config.tokenizer.model_copy(update={"vocab_size": size})
        try:
            smaller = shrunk(tokenizer, size) if tokenizer is not None else None
            tokenizer = train(stage, sample, ()) if smaller is None else smaller
        except DataError as error:
            raise DataError(f"sweep: {error}") from None
        tokenizer.encode_special_tokens = True
        found.append({"asked": size, "vocab_size": tokenizer.get_vocab_size(), **lengths(tokenizer, texts)})
    return found[::-1]


def shrunk(tokenizer: Tokenizer, size: int) -> Tokenizer | None:
    """The tokenizer that the same training would have given for fewer entries: its first ones, since the merges of BPE
    are learnt one after the other. None for families of which that is not so, or where characters would be lost."""
    spec = json.loads(tokenizer.to_str())
    model = spec["model"]
    if model["type"] != "BPE":
        return None
    merged = {first + second for first, second in model["merges"]}
    if any(number >= size for token, number in model["vocab"].items() if token not in merged):
        return None
    model["vocab"] = {token: number for token, number in model["vocab"].items() if number < size}
    model["merges"] = [merge for merge in model["merges"] if "".join(merge) in model["vocab"]]
    return Tokenizer.from_str(json.dumps(spec))
