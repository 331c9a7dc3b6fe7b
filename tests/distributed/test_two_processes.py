"""Two real processes on a CPU walk the loss curve of one, within rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scoring_jobs import model_folder
from training_jobs import FORMATS, MODEL, MODELS, causal_lm_folder, random_tokens

from pipelines.training.sentinel import read_metrics

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]


def launch(root: Path, script: str, task: dict, processes: int, micro: int) -> dict:
    """The metrics of a job. Dropout draws by rank, so these are without."""
    task = {"root": str(root), "dropout": 0.0} | task
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
    command = [sys.executable, TESTS / script, root / "task.json"]
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
        if kind not in MODELS:
            causal_lm_folder(root / "base", MODEL.model_copy(update={"dropout": 0.0}))
        task = {"kind": kind, "table": str(table), "fields": {"duration": "6 steps"}}
        metrics[processes] = launch(root, "training_jobs.py", task, processes, micro)
        told = read_metrics(root / "job" / "record" / "metrics.jsonl")
        assert [line["step"] for line in told] == [1, 2, 3, 4, 5, 6]  # written once
        curves[processes] = told
    for figure in ("loss", "learning_rate", "grad_norm"):
        one, two = ([line[figure] for line in curves[world]] for world in (1, 2))
        assert two == pytest.approx(one, abs=1e-5), figure
    assert metrics[1]["tokens"] == metrics[2]["tokens"]
    for figure in ("holdout_loss", "holdout_accuracy", "holdout_bits_per_byte"):
        assert metrics[2].get(figure) == pytest.approx(metrics[1].get(figure), abs=1e-5)


FINETUNES = {
    "single": {"label_smoothing_factor": 0.1, "class_weights": "balanced"},
    "multi": {"class_weights": {"small": 3.0}},
    "number": {},
    "seq2seq": {"label_smoothing_factor": 0.1, "metric_for_best_model": "chrf"},
}
"""Kinds of labels, or seq2seq -> fields."""


@pytest.mark.parametrize("kind", list(FINETUNES))
def test_a_finetune_on_two_processes_scores_as_on_one(tmp_path: Path, kind: str) -> None:
    metrics, curves = {}, {}
    fields = {"duration": "12 steps", "eval_steps": 3, "learning_rate": 3e-3, "global_batch_size": 12}
    for processes, micro in ((1, 12), (2, 2)):
        root = tmp_path / f"world-{processes}"
        root.mkdir()
        task = {"kind": kind, "pair": True, "fields": fields | FINETUNES[kind]}
        metrics[processes] = launch(root, "finetune_jobs.py", task, processes, micro)
        curves[processes] = read_metrics(root / "job" / "record" / "metrics.jsonl")
    for figure in ("loss", "grad_norm"):
        one, two = ([line[figure] for line in curves[world] if figure in line] for world in (1, 2))
        assert len(one) == 12 and two == pytest.approx(one, abs=1e-5), figure
    told = {name: value for name, value in metrics[1].items() if name.startswith(("best_", "holdout_"))}
    assert len(told) > 4
    for name, value in told.items():
        assert metrics[2][name] == (value if isinstance(value, str) else pytest.approx(value, abs=1e-4)), name


def test_scores_of_encoders_and_encoder_decoders_are_those_of_one_process_and_the_work_is_shared(
    tmp_path: Path,
) -> None:
    models = {name: str(model_folder(tmp_path, name)) for name in ("encoder", "encoder_decoder")}
    found, passes = {}, {}
    for processes in (1, 2):
        root = tmp_path / f"world-{processes}"
        root.mkdir()
        found[processes] = launch(root, "scoring_jobs.py", models, processes, 1)
        told = [json.loads(path.read_text()) for path in sorted((root / "job").glob("passes-*.json"))]
        assert len(told) == processes
        passes[processes] = [sorted(of_kind) for of_kind in zip(*told, strict=True)]
    assert found[1] == found[2]
    for (whole,), halves in zip(passes[1], passes[2], strict=True):
        assert sum(halves) == whole > 10 and halves[1] - halves[0] <= 3
