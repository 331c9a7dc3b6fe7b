"""How long it takes until something happens: the verbs that only look, a run with nothing to do, and both doors.

    python benchmarks/startup.py --repeats 5

Prints one JSON object, all in seconds. `accelerate_launch` is the wall time of a one-step stage by `accelerate launch`
less the time inside the stage; `ratio` holds it against a bare Python process that only imports what the stage needs.
`warm_fork` is the time from one finished stage of a run to the next, less the time inside that stage."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
STAGES = ("first", "second", "third", "fourth")
IMPORTS = "import torch, transformers, accelerate, custom_models, pipelines.stages.pretrain"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        recipe = _write_recipe(Path(folder))
        sourdough = [sys.executable, "-m", "pipelines"]
        store = ["--store", str(Path(folder) / "store")]
        figures = {"check": _median([*sourdough, "check", str(ROOT / "recipes/demo.yaml")], repeats)}
        figures["plan"] = _median([*sourdough, "plan", str(ROOT / "recipes/demo.yaml"), *store], repeats)
        _run([*sourdough, "run", str(recipe), *store])
        figures["run_with_nothing_to_do"] = _median([*sourdough, "run", str(recipe), *store], repeats)
        figures["warm_fork"] = _warm_fork(Path(folder) / "runs/startup")
        figures["accelerate_launch"] = _accelerate_launch(Path(folder), repeats)
        figures["bare_import"] = _median([sys.executable, "-c", IMPORTS], repeats)
        figures["ratio"] = figures["accelerate_launch"] / figures["bare_import"]
        os.chdir(ROOT)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def _write_recipe(folder: Path) -> Path:
    (folder / "text.txt").write_text("\n".join(f"line {number} of a short text" for number in range(200)))
    stage = "{data: text, max_length: 32, duration: 1 steps, global_batch_size: 2, learning_rate: 1e-3}"
    lines = [
        "name: startup",
        "data: {text: {files: text.txt, separator: line, holdout: 0}}",
        "model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 32}",
        "stages:",
        "  tokenizer: {vocab_size: 300, data: text}",
        f"  first: {{kind: pretrain, {stage[1:]}",
        *(f"  {name}: {{like: first, seed: {number}}}" for number, name in enumerate(STAGES[1:], 1)),
    ]
    path = folder / "startup.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def _run(command: Sequence[str]) -> float:
    start = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    if ended.returncode:
        sys.exit(f"{' '.join(command)}\n{ended.stdout}{ended.stderr}")
    return time.perf_counter() - start


def _median(command: Sequence[str], repeats: int) -> float:
    return statistics.median(_run(command) for _ in range(repeats))


def _inside(manifest: dict) -> float:
    return sum(value for name, value in manifest["metrics"].items() if name.startswith("seconds_"))


def _warm_fork(run: Path) -> float:
    """Manifests are written when a stage ends: the time between two, less what the later stage itself took."""
    paths = [run / name / "manifest.json" for name in STAGES]
    ends = [path.stat().st_mtime for path in paths]
    inside = [_inside(json.loads(path.read_text())) for path in paths]
    return statistics.median(ends[k] - ends[k - 1] - inside[k] for k in range(1, len(STAGES)))


def _accelerate_launch(folder: Path, repeats: int) -> float:
    manifest = json.loads((folder / "runs/startup/first/manifest.json").read_text())
    artifact = (folder / "runs/startup/first").resolve()
    task = {
        "job": manifest["job"],
        "inputs": {role: str(_output(folder, item["fingerprint"])) for role, item in manifest["inputs"].items()},
        "launch": {"threads": os.cpu_count()},
    }
    config = str(ROOT / "recipes/accelerate/cpu.yaml")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]  # as the driver calls it
    command += ["--num_cpu_threads_per_process", str(os.cpu_count()), "-m", "pipelines.run.worker"]
    walls = []
    for _ in range(repeats):
        workdir = folder / "by_hand" / artifact.name
        shutil.rmtree(workdir, ignore_errors=True)
        workdir.mkdir(parents=True)
        (workdir / "task.json").write_text(json.dumps(task))
        wall = _run([*command, str(workdir)])
        walls.append(wall - _inside(json.loads((workdir / "outcome.json").read_text())))
    return statistics.median(walls)


def _output(folder: Path, fingerprint: str) -> Path:
    (found,) = (folder / "store").glob(f"*-{fingerprint[:16]}")
    return found / "output"


if __name__ == "__main__":
    main()
