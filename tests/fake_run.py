"""A store filled with made-up but well-formed artifacts, for tests of the report and for looking at it."""

import json
import math
import random
from pathlib import Path
from typing import Any

from pipelines.plan.files import Digests
from pipelines.plan.jobs import Job, Plan
from pipelines.plan.planner import make_plan
from pipelines.recipe.load import load_recipe
from pipelines.report.collect import Report, load_report, write_report
from pipelines.store.artifacts import Artifact, ArtifactStore

RECIPE = """\
name: {name}
data:
  village: {{builtin: microworld/text}}
  chats: {{builtin: microworld/chat}}
  preferences: {{builtin: microworld/preferences}}
  prompts: {{builtin: microworld/prompts}}
model: {{architecture: decoder, style: llama, hidden_size: 128, num_hidden_layers: 4, num_attention_heads: 4,
        intermediate_size: 344, max_position_embeddings: 256}}
stages:
  tokenizer: {{vocab_size: 512, data: {{village: 0.7, chats: 0.3}}}}
  pretrain: {{data: village, duration: 900 steps, global_batch_size: 16, learning_rate: 0.02}}
  sft: {{model: pretrain, data: chats, duration: 2 epochs, global_batch_size: 8, learning_rate: 0.01}}
  reward: {{model: sft, data: preferences, duration: 1 epochs, global_batch_size: 32, learning_rate: 3e-4}}
  dpo: {{model: sft, data: preferences, duration: 1 epochs, global_batch_size: 32, learning_rate: 1e-4}}
  ppo: {{model: sft, data: prompts, reward_funcs: village_story, duration: 25 rollouts, rollout_batch_size: 64,
        global_batch_size: 16, max_completion_length: 64, learning_rate: 2e-4}}
  evaluate:
    models: [pretrain, sft, dpo, ppo]
    tasks:
      - {{name: bits_per_byte, data: village}}
      - microworld/comprehension
      - microworld/generation
      - microworld/chat_answers
      - {{name: reward, data: prompts, reward_funcs: village_story}}
launch: cpu
"""

VALUES = {
    "bits_per_byte/village": ("bits_per_byte", False, False, 1000, [0.312, 0.331, 0.333, 0.345], 0.004),
    "microworld/comprehension": ("acc", True, False, 400, [0.652, 0.640, 0.647, 0.630], 0.024),
    "microworld/generation": ("exact_match", True, False, 400, [0.552, 0.537, 0.540, 0.410], 0.025),
    "microworld/chat_answers": ("exact_match", True, True, 400, [0.0, 0.537, 0.530, 0.512], 0.025),
    "reward/prompts": ("village_story", True, True, 400, [0.0, 0.218, 0.394, 0.645], 0.016),
}
"""Task -> (metric, whether higher is better, whether in chat form, items, value of each model, standard error)."""

SAMPLES = [
    ("chat", "Write a story about Nora and a kite in four sentences."),
    ("chat", "Today Eva is in the park. Eva has a blue drum. Eva drops the drum. Where is the drum?"),
    ("text", "Today Ben is in the mill. A red cup is in the cave."),
]
ANSWER = "Today Nora is in the garden. Nora has a red kite. She goes to the mill. She drops the kite. The end."


def fake_plan(folder: Path, *, name: str = "demo", recipe: str = RECIPE) -> Plan:
    """The plan of a recipe written into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "demo.yaml"
    path.write_text(recipe.format(name=name), encoding="utf-8")
    loaded = load_recipe(path, [])
    return make_plan(loaded.recipe, path=path, digest=Digests())


def fake_run(
    plan: Plan,
    store: ArtifactStore,
    *,
    leave_out: tuple[str, ...] = (),
    evil: str = "",
    words: dict[str, Any] | None = None,
    vocabulary: dict[str, Any] | None = None,
) -> None:
    """Publish an artifact for every job but those left out; `evil` is put wherever text of data or models may stand,
    and `words` is what every evaluation found of embeddings, `vocabulary` what was measured beside a tokenizer."""
    done: dict[str, Artifact] = {}
    for number, job in enumerate(plan.jobs):
        if job.name in leave_out or any(item.job not in done for item in job.inputs.values()):
            continue
        inputs = {role: done[item.job] for role, item in job.inputs.items()}
        workdir = store.prepare(job, inputs, {})
        for part in ("output", "record"):
            (workdir / part).mkdir(exist_ok=True)
        if job.kind == "vocabulary":
            (workdir / "output" / "vocabulary.json").write_text(json.dumps(vocabulary))
        metrics = _output(job, workdir / "output", evil, words) | _record(job, workdir / "record", evil)
        done[job.name] = store.publish(job, inputs, metrics, _provenance(number))


def fake_report(root: Path, recipe: str = RECIPE, **fake: Any) -> Path:
    """A made-up run with its report; the folder of the report."""
    plan, store = fake_plan(root / "recipes", recipe=recipe), ArtifactStore(root / "artifacts")
    fake_run(plan, store, **fake)
    return write_report(plan, store, root / "runs").parent


def read_report(folder: Path) -> Report:
    report = load_report(folder)
    assert report is not None
    return report


def _provenance(number: int) -> dict[str, Any]:
    return {
        "created": f"2026-11-20T10:{number:02d}:00+00:00",
        "seconds": 3.7 * number + 0.4,
        "num_processes": 1,
        "threads": 2,
        "device": "cpu",
        "platform": "Linux x86_64",
        "versions": {"torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0"},
    }


def _dropped(evil: str) -> str:
    """dropped.jsonl: a row that is cut off, and one that is no JSON."""
    row = json.dumps({"text": f"Today Mia\nis{evil} in the mill. " * 90})
    lines = [{"reason": f"empty text {evil}", "file": f"/data/a{evil}.txt", "line": 3, "row": None}]
    lines += [{"reason": "quality_length", "detail": "words 3 < 50", "file": "b.txt", "line": n, "row": row[:1900]}
              for n in range(1, 6)]  # fmt: skip
    return "\n".join(map(json.dumps, lines)) + '\n{"reason": "qual'


def _write_cleaned(job: Job, record: Path, evil: str) -> None:
    """What cleaning keeps to be looked at."""
    row = {"reason": "duplicate", "removed": json.dumps({"text": "A copy" + evil}), "kept": json.dumps({"text": "One"})}
    rows = [row | {"of": job.spoken(role)} for role in job.inputs if role.startswith("earlier.")]
    (record / "removed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {"task": "t", "question": "Who?", "split": "train", "passage": "It is said " + evil, "shared": "is said"}
    (record / "contamination.jsonl").write_text(json.dumps(found) + "\n")
    (record / "cut.jsonl").write_text(json.dumps({"of": "itself", "cut": "Once more" + evil, "row": "{}"}) + "\n")


def _mixture(job: Job) -> dict[str, Any]:
    """Two phases; in the second, the last dataset is taken as often as it may be."""
    roles = [role for role, _ in job.mixture]
    rest = [0.0] * (len(roles) - 1)
    parts = [{"phase": 0, "start": 0.0, "drawn": [700.0, *[100.0 for _ in rest]]}]
    parts += [{"phase": 1, "start": 0.75, "drawn": [100.0, *[100.0 for _ in rest]]}]
    parts += [{"phase": 1, "start": 0.9, "drawn": [100.0, *rest]}]
    phases = [{"start": start, "planned": [1 / len(roles)] * len(roles)} for start in (0.0, 0.75)]
    return {"unit": "tokens", "steps": 900, "roles": roles, "phases": phases, "parts": parts}


def _output(job: Job, output: Path, evil: str, words: dict[str, Any] | None) -> dict[str, Any]:
    (output / "anything").write_text(job.name)
    if job.kind in ("data", "clean"):
        info = {
            "format": getattr(job.config, "dataset", job.config).format,
            "rows_in": 31_010,
            "rows_used": 30_998,
            "train": 29_998,
        }
        info |= {"filtered": {"quality_length": 10}, "changed": 7, "dry_run": False, "left_over": {"unranked": 3}}
        info |= {"holdout": 1_000, "bytes": 7_710_600, "dropped": {f"empty text {evil}": 2}}
        if job.kind == "clean":
            info |= {"rows_used": 30_966, "train": 29_966, "train_in": 29_998}
            info |= {"removed": {"duplicate": {"earlier.0": 30, "dataset/holdout": 2}}}
            info |= {"cut": {"rows": 5, "runs": 6, "words": {"dataset": 300}}}
            if job.config.decontaminate:
                (output / "contamination.json").write_text(json.dumps(contamination("drop", evil)))
        (output / "info.json").write_text(json.dumps(info))
        return {"rows_in": 31_010, "rows_used": 30_998, "dropped": 2, "filtered": 10, "changed": 7}
    if job.kind == "contamination":
        (output / "contamination.json").write_text(json.dumps(contamination("tell", evil)))
        return {"contaminated": 12}
    if job.kind == "tokens":
        return {"bytes": 7_710_600, "tokens": 2_112_017, "rows": 31_000, "train_tokens": 2_043_525}
    if job.kind == "evaluate":
        model = ["pretrain", "sft", "dpo", "ppo"].index(job.inputs["model"].job)
        scores = _evaluation(model, evil) | ({"embeddings": words} if words else {})
        (output / "scores.json").write_text(json.dumps(scores))
    return {}


def _evaluation(model: int, evil: str) -> dict[str, Any]:
    scores = []
    for task, (metric, better, chat, items, values, stderr) in VALUES.items():
        settings = {"apply_chat_template": chat, "template_digest": "d6" * 32 if chat else None, "limit": None}
        settings |= {"version": 1, "num_fewshot": 0, "bos_policy": "bos", "dtype": "float32"}
        score = {"task": task + evil, "metric": metric, "value": values[model], "higher_is_better": better}
        scores.append(score | {"stderr": stderr if values[model] else 0.0, "n": items} | settings)
    samples = [{"kind": kind, "prompt": prompt + evil, "completion": ANSWER + evil} for kind, prompt in SAMPLES]
    return {"model": "f" * 64, "settings": {}, "scores": scores, "samples": samples}


def contamination(action: str, evil: str = "") -> dict[str, Any]:
    """What was found of two benchmarks."""
    nothing = {"found": 0, "too_short": 0, "phrases": 0, "documents": 0, "holdout_documents": 0}
    some = nothing | {"found": 7, "too_short": 3, "phrases": 2, "documents": 12}
    tasks = [{"task": "microworld/generation" + evil, "questions": 400} | some, {"task": "t", "questions": 9} | nothing]
    return {"action": action, "ngram": 13, "max_documents": 10, "contaminated": 12, "tasks": tasks}


def measures(evil: str = "") -> dict[str, Any]:
    """What a tokenizer job measured."""
    length = {"bytes": 400_000, "bytes_per_token": 4.6312, "tokens_per_word": 1.2648}
    counts = {"size": 1_000_000, "tokens": 215_926, "unused_share": 0.25, "rare_share": 0.05}
    return (
        length
        | counts
        | {
            "vocab_size": 500,
            "asked": 512,
            "algorithm": "byte_level_bpe",
            "sources": {"data.0": length, "data.1": length | {"bytes_per_token": 3.25}},
            "languages": {"en": length, "de": length | {"bytes_per_token": 2.125}},
            "failures": 0,
            "texts": 400,
            "unknown_share": 0.0,
            "longest": [" kindergarten" + evil],
            "examples": {"numbers": [" 12", "34", "\n" + evil]},
        }
    )


def _record(job: Job, record: Path, evil: str = "") -> dict[str, Any]:
    if job.kind == "data":
        (record / "dropped.jsonl").write_text(_dropped(evil))
    if job.kind == "clean":
        _write_cleaned(job, record, evil)
    if job.kind == "tokens":
        (record / "lengths.json").write_text(json.dumps({"edges": [4, 8, 16, 32], "rows": [0, 900, 3]}))
    if job.kind == "pretrain":
        (record / "mixture.json").write_text(json.dumps(_mixture(job)))
    if job.kind == "tokenizer":
        (record / "tokenizer.json").write_text(json.dumps(measures(evil)))
    if job.kind not in ("pretrain", "sft", "reward", "dpo", "ppo"):
        return {}
    rng, lines = random.Random(job.kind), []
    steps = 100 if job.kind == "ppo" else 900
    start, end = {"pretrain": (6.2, 0.58), "sft": (1.9, 0.35)}.get(job.kind, (0.69, 0.41))
    for step in range(1, steps + 1):
        loss = end + (start - end) * math.exp(-6 * step / steps) + rng.gauss(0, 0.03)
        line = {"step": step, "loss": loss, "learning_rate": 0.01, "grad_norm": 1.0, "tokens_per_second": 13_700.0}
        if job.kind == "ppo":
            line |= {"reward": 0.2 + 0.45 * step / steps + rng.gauss(0, 0.03), "reward_stderr": 0.04, "kl": 0.08 * step}
        lines.append(line)
        if step % 300 == 0 and job.kind != "ppo":
            lines.append({"step": step, "holdout_loss": loss + 0.02, "holdout_accuracy": 0.5 + 0.4 * step / steps})
    (record / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 9')
    source = next(item.job for role, item in job.inputs.items() if role.startswith("data."))
    counts = {
        f"source_{source}_rows_in": 30_000,
        f"source_{source}_rows_used": 29_998,
        f"source_{source}_tokens": 2_043_525,
    }
    return {
        "parameters": 856_576,
        "tokens": 1_190_000,
        "tokens_per_second": 13_700.5,
        "final_loss": lines[-1]["step"],
    } | counts
