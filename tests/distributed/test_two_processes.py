"""Two real processes on a CPU walk the loss curve of one, within rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_jobs import FORMATS, MODEL, MODELS, causal_lm_folder, random_tokens

from pipelines.training.sentinel import read_metrics

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "training_jobs.py"


def launch(root: Path, kind: str, table: Path, processes: int, micro: int) -> dict:
    task = {"root": str(root), "kind": kind, "table": str(table), "fields": {"duration": "6 steps"}, "dropout": 0.0}
    (root / "task.json").write_text(json.dumps({**task, "launch": {"micro_batch_size": micro, "checkpoint_every": 4}}))
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "GLOO_SOCKET_IFNAME": "lo",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TQDM_DISABLE": "1",
    }
    command = [sys.executable, SCRIPT, root / "task.json"]
    if processes > 1:
        options = ["--multi_gpu", "--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no"]
        options += ["--main_process_port", "0", "--num_cpu_threads_per_process", "1", "--dynamo_backend", "no"]
        command = [sys.executable, "-m", "accelerate.commands.launch", *options, *command[1:]]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads((root / "job" / "metrics.json").read_text())


@pytest.mark.parametrize("kind", list(FORMATS))
def test_two_processes_give_the_loss_curve_of_one(tmp_path: Path, kind: str) -> None:
    table = random_tokens(tmp_path / "rows", FORMATS[kind])
    metrics, curves = {}, {}
    for processes, micro in ((1, 8), (2, 2)):
        root = tmp_path / f"world-{processes}"
        root.mkdir()
        if kind not in MODELS:  # dropout draws by rank, so these curves are without
            causal_lm_folder(root / "base", MODEL.model_copy(update={"dropout": 0.0}))
        metrics[processes] = launch(root, kind, table, processes, micro)
        told = read_metrics(root / "job" / "record" / "metrics.jsonl")
        assert [line["step"] for line in told] == [1, 2, 3, 4, 5, 6]  # written once
        curves[processes] = told
    for figure in ("loss", "learning_rate", "grad_norm"):
        one, two = ([line[figure] for line in curves[world]] for world in (1, 2))
        assert two == pytest.approx(one, abs=1e-5), figure
    assert metrics[1]["tokens"] == metrics[2]["tokens"]
    for figure in ("holdout_loss", "holdout_accuracy", "holdout_bits_per_byte"):
        assert metrics[2].get(figure) == pytest.approx(metrics[1].get(figure), abs=1e-5)
