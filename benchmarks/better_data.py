"""Better data, better model: the same model and the same number of tokens on a heap of text as it is and on the
cleaned one.

    python benchmarks/better_data.py                    text of the built-in world
    python benchmarks/better_data.py --data folder      real text (.txt, .txt.gz)

A heap is made of the text (benchmarks/heap.py): junk, near copies and boilerplate are planted in it, and clean
documents are held out before. Each arm is a recipe that differs from the others in what is done to the heap, and runs
through the pipeline. Prints what became of what was planted, and the held-out bits per byte of each arm; the interval
of the difference is a bootstrap over held-out documents, whose bits are the mean over seeds. Each arm has a tokenizer
of its own, trained on its own data; bits per byte compare them all the same. Work that is finished in `--to` is not
done again."""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from heap import COPY, HELD, JUNK, ORIGINAL, Document, Recipe, composition, documents, make_heap
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from pipelines.cleaning.quality import Quality
from pipelines.data.row_writer import RowWriter
from pipelines.data.rows import read_rows
from pipelines.evaluation import metrics
from pipelines.evaluation.bits import document_bits
from pipelines.evaluation.subject import Subject
from pipelines.plan.jobs import CleanJob, Job
from pipelines.recipe.deduplicate import Deduplicate
from pipelines.recipe.evaluation import TaskConfig
from pipelines.recipe.quality import QualityField
from pipelines.report.drawing import BLUE, GREY, ORANGE, SHADES
from pipelines.report.plots import Series, curves
from pipelines.stages import clean
from pipelines.stages.base import StageContext

ROOT = Path(__file__).parents[1]
NAME = "holdout_bits_per_byte"
"""In metrics.jsonl."""
LOOKS = 6
"""Points of a curve, held-out bits per byte by steps."""
# The world's text has few stop words and says things again by nature; thresholds of English prose would drop it.
WORLD = (
    "[bad_characters, lines, {kind: language, keep: [en]}, {kind: gopher_quality, min_stop_words: 0}, "
    "{kind: gopher_repetition, max_duplicate_5_grams: 0.5, max_duplicate_6_grams: 0.4, max_duplicate_7_grams: 0.35, "
    "max_duplicate_8_grams: 0.35, max_duplicate_9_grams: 0.32, max_duplicate_10_grams: 0.3}]"
)
COPIES = "{spans: 50}"
ARMS = ("raw", "filtered", "clean", "original")
"""The heap as it is; after filters; after filters and deduplication; and what it was before anything was planted."""
COLOURS = {"raw": ORANGE, "filtered": SHADES[3], "clean": BLUE, "original": GREY}


def main() -> None:
    options = _options()
    folder = options.to or Path(tempfile.mkdtemp(prefix="better_data_"))
    folder.mkdir(parents=True, exist_ok=True)
    quality = "web" if options.data else WORLD
    texts = list(documents(options.data, round(options.megabytes * 1e6), options.seed))
    held, originals = texts[:HELD], texts[HELD:]
    heap = make_heap(originals, Recipe(), options.seed)
    _write(folder / "heap.jsonl", [document.text for document in heap])
    _write(folder / "original.jsonl", originals)
    _write(folder / "holdout.jsonl", held)
    facts: dict[str, Any] = {"heap": composition(heap)}
    facts["becomes"] = _became(heap, quality, folder)
    _print_became(facts["becomes"])
    facts["arms"], bits = {}, {}
    for arm in options.arms:
        recipe = folder / f"{arm}.yaml"
        recipe.write_text(_recipe(arm, quality, options), encoding="utf-8")
        _run(recipe, folder)
        facts["arms"][arm], bits[arm] = _scores(arm, folder, options.seeds)
    facts |= _compared(facts["arms"], bits)
    print(json.dumps(facts, indent=1))
    (folder / "better_data.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    series = [_curve(arm, found["curve"]) for arm, found in facts["arms"].items()]
    (options.plot or folder / "better_data.svg").write_text(curves(series, xlabel="step"))
    print(f"in {folder}", file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of .txt or .txt.gz, or one such file")
    parser.add_argument("--megabytes", type=float, default=2.5, help="of text before anything is planted")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["raw", "clean"])
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each arm")
    parser.add_argument("--seed", type=int, default=0, help="of the heap")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="of a row")
    parser.add_argument("--to", type=Path, help="a folder for the heap, the recipes and the runs (default: a new one)")
    parser.add_argument("--plot", type=Path, help="where the curves are written, as SVG")
    return parser.parse_args()


# --- the heap ---------------------------------------------------------------------------------------------------------


def _write(path: Path, texts: Sequence[str]) -> None:
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    path.write_text("".join(lines), encoding="utf-8")


# --- what becomes of it -----------------------------------------------------------------------------------------------


def _became(heap: Sequence[Document], quality: str, folder: Path) -> dict[str, dict[str, int]]:
    """Kind -> documents that are planted, dropped by each filter, removed as copies, kept; lines of boilerplate too."""
    verdicts = Quality(TypeAdapter(QualityField).validate_python(_parsed(quality)))([each.text for each in heap])
    found = {kind: Counter[str](planted=0) for kind in (ORIGINAL, COPY, *JUNK, "boilerplate_lines")}
    left = [number for number, verdict in enumerate(verdicts) if verdict.reason is None]
    kept = _deduplicated([verdicts[number].text for number in left], folder)
    for number, (document, verdict) in enumerate(zip(heap, verdicts, strict=True)):
        is_kept = verdict.reason is None and verdict.text in kept
        found[document.kind]["planted"] += 1
        found[document.kind][verdict.reason or ("kept" if is_kept else "a_copy")] += 1
        lines = found["boilerplate_lines"]
        lines["planted"] += len(document.boilerplate)
        lines["kept"] += sum(is_kept and line in verdicts[number].text for line in document.boilerplate)
    return {kind: dict(counts) for kind, counts in found.items()}


def _deduplicated(texts: Sequence[str], folder: Path) -> set[str]:
    """Those that are no copies. Runs of words are left in, so that texts can be recognised."""
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
        dataset = Path(workdir) / "dataset"
        dataset.mkdir()
        with RowWriter(dataset, "train", "text") as writer:
            for text in texts:
                writer.append({"text": text})
        info = {"format": "text", "rows_in": writer.rows, "rows_used": writer.rows, "train": writer.rows, "dropped": {}}
        (dataset / "info.json").write_text(json.dumps(info | {"holdout": 0, "bytes": writer.bytes}))
        job = Job(name="clean-x", stage="x", config=CleanJob(format="text", deduplicate=Deduplicate()), seed=None)
        ctx = StageContext(job=job, inputs={"dataset": dataset}, workdir=Path(workdir) / "clean")
        clean.run(ctx)
        return {row["text"] for batch in read_rows(ctx.output, "train") for row in batch}


def _parsed(quality: str) -> Any:
    return YAML(typ="safe").load(quality)


def _print_became(found: dict[str, dict[str, int]]) -> None:
    for kind, counts in found.items():
        others = ", ".join(f"{name} {count}" for name, count in counts.items() if name not in ("planted", "kept"))
        print(f"{kind:18} {counts['planted']:5} planted {counts.get('kept', 0):5} kept  {others}", file=sys.stderr)


# --- the arms ---------------------------------------------------------------------------------------------------------


def _recipe(arm: str, quality: str, options: argparse.Namespace) -> str:
    cleaning = f", quality: {quality}" if arm in ("filtered", "clean") else ""
    cleaning += f", deduplicate: {COPIES}" if arm == "clean" else ""
    files = "original.jsonl" if arm == "original" else "heap.jsonl"
    stage = (
        f"kind: pretrain, data: heap, max_length: {options.tokens}, packing: split, duration: {options.steps} steps, "
        f"global_batch_size: {options.batch}, optimizer: muon, learning_rate: 0.02, adamw_learning_rate: 0.01, "
        f"adam_beta2: 0.95, warmup_steps: 20"
    )
    lines = [
        f"name: {arm}",
        "data:",
        f"  heap: {{files: {files}, holdout_files: holdout.jsonl{cleaning}}}",
        "model: {architecture: decoder, style: llama, hidden_size: 128, num_hidden_layers: 2, num_attention_heads: 4, "
        f"qk_norm: true, max_position_embeddings: {options.tokens}}}",
        "stages:",
        "  tokenizer: {vocab_size: 2048, data: heap}",
        f"  pretrain_0: {{{stage}, seed: 0}}",
        *(f"  pretrain_{seed}: {{like: pretrain_0, seed: {seed}}}" for seed in range(1, options.seeds)),
        f"launch: {{config: cpu, evaluate_every: {max(1, options.steps // LOOKS)}}}",
    ]
    return "\n".join(lines) + "\n"


def _run(recipe: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "pipelines", "run", recipe.name, "--store", "store"]
    ended = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=sys.stderr)
    if ended.returncode:
        sys.exit(f"{' '.join(command)}: ended with {ended.returncode}")


def _scores(arm: str, folder: Path, seeds: int) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray]]:
    """(numbers of an arm, (bits, bytes) of each held-out document; bits are the mean over seeds)."""
    run, all_bits, curve = folder / "runs" / arm, [], []
    sizes: list[int] = []
    for seed in range(seeds):
        stage = run / f"pretrain_{seed}"
        subject = Subject.load(stage / "output")
        bits, sizes = document_bits(subject, TaskConfig(name="bits_per_byte", data="heap"), run / "tokens-heap/output")
        all_bits.append(bits)
        lines = [json.loads(line) for line in (stage / "record/metrics.jsonl").read_text().splitlines()]
        curve.append({line["step"]: line[NAME] for line in lines if NAME in line})
    info = json.loads((_dataset(run) / "info.json").read_text())
    facts = json.loads((run / "pretrain_0/manifest.json").read_text())["metrics"]
    found = {
        "rows": info["train"],
        "megabytes": round(info["bytes"] / 1e6, 2),
        **{name: facts[name] for name in ("parameters", "tokens", "epochs")},
        "bits_per_byte": [round(math.fsum(bits) / sum(sizes), 4) for bits in all_bits],
        "curve": curve,
    }
    return found, (np.mean(all_bits, axis=0), np.asarray(sizes))


def _dataset(run: Path) -> Path:
    """What is trained on."""
    cleaned = run / "clean-heap/output"
    return cleaned if cleaned.exists() else run / "data-heap/output"


def _compared(arms: dict[str, Any], bits: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Of each arm but the first: by how much it is better than the first, with an interval of 95 %."""
    (first, (base, sizes)), *others = bits.items()
    found = {}
    for arm, (mine, _) in others:
        value, stderr, low, high = metrics.bootstrap(
            lambda one, other, size: (one.sum() - other.sum()) / size.sum(), [base, mine, sizes], seed=0
        )
        pairs = zip(arms[first]["bits_per_byte"], arms[arm]["bits_per_byte"], strict=True)
        found[f"{arm} better than {first}"] = {
            "bits_per_byte": round(value, 4),
            "stderr": round(stderr, 4),
            "interval": [round(low, 4), round(high, 4)],
            "by_seed": [round(one - other, 4) for one, other in pairs],
            "documents": len(sizes),
        }
    return found


def _curve(arm: str, curve: Sequence[dict[int, float]]) -> Series:
    """The mean over seeds, and between the lowest and the highest of them a band."""
    steps = sorted(curve[0])
    columns = [[line[step] for line in curve] for step in steps]
    means = [math.fsum(values) / len(values) for values in columns]
    spread = [(max(values) - min(values)) / 2 for values in columns]
    return Series(arm, [float(step) for step in steps], means, COLOURS[arm], spread, True)


if __name__ == "__main__":
    main()
