"""Stage `evaluate`: every kind of task on one model, into scores.json."""

import json
from pathlib import Path

import pytest
from tiny_subject import tiny_model

from pipelines.data import microworld
from pipelines.data.chat import ChatRenderer
from pipelines.data.tokens import TokenWriter
from pipelines.errors import DataError
from pipelines.plan.jobs import Input, Job
from pipelines.recipe.evaluation import EvaluateStage
from pipelines.stages import evaluate
from pipelines.stages.base import LaunchSettings, StageContext

ROOT = Path(__file__).parents[2]
TASKS = [
    {"name": "bits_per_byte", "data": "village", "limit": 4},
    {"name": "microworld/comprehension", "limit": 6},
    {"name": "microworld/generation", "limit": 4},
    {"name": "microworld/chat_answers", "limit": 4},
    {"name": "reward", "data": "wishes", "reward_funcs": "village_story", "limit": 5, "max_completion_length": 12},
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("inputs")
    model = tiny_model(root / "model")
    tokens = ChatRenderer.load(model)
    texts = [microworld.text("holdout", 0, number)["text"] for number in range(6)]
    wishes = [microworld.wish("holdout", 0, number) for number in range(6)]
    messages = [[{"role": "user", "content": wish.pop("prompt")}] for wish in wishes]
    for name, rows in {
        "text": {"input_ids": tokens.documents(texts), "num_bytes": [len(text.encode()) for text in texts]},
        "prompt": {
            "prompt_ids": tokens.prompts(messages),
            "columns": [json.dumps(wish) for wish in wishes],
            "prompt": messages,
        },
    }.items():
        (root / name).mkdir()
        writer = TokenWriter(root / name, format=name, vocab_size=tokens.vocab_size)
        writer.append("holdout", rows)
        writer.close()
    return {"model": model, "text": root / "text", "prompt": root / "prompt"}


def context(
    workdir: Path,
    folders: dict[str, Path],
    tasks: list[dict],
    *,
    batch_size: int = 32,
    named_files: dict[str, str] | None = None,
) -> StageContext:
    inputs = {"model": folders["model"]}
    for number, task in enumerate(tasks):
        if "data" in task:
            inputs[f"task.{number}.data"] = folders["text" if task["name"] == "bits_per_byte" else "prompt"]
    config = {"kind": "evaluate", "models": ["sft"], "tasks": tasks}
    job = Job(
        name="evaluate-sft",
        stage="evaluate",
        config=EvaluateStage.model_validate_json(json.dumps(config)),
        seed=3,
        files={str(path): "0" * 64 for path in (ROOT / "recipes" / "tasks").rglob("*.yaml")},
        named_files=named_files or {},
        inputs={role: Input(job=role, fingerprint="f" * 64) for role in inputs},
    )
    for part in ("output", "record"):
        (workdir / part).mkdir(parents=True, exist_ok=True)
    return StageContext(job=job, inputs=inputs, workdir=workdir, launch=LaunchSettings(micro_batch_size=batch_size))


def run(workdir: Path, folders: dict[str, Path], tasks: list[dict] = TASKS, **settings) -> dict:
    metrics = evaluate.run(context(workdir, folders, tasks, **settings))
    scores = json.loads((workdir / "output" / "scores.json").read_text())
    assert {f"{row['task']}.{row['metric']}": row["value"] for row in scores["scores"]} == metrics
    return scores


def test_every_number_carries_what_it_depends_on(tmp_path, folders):
    scores = run(tmp_path, folders)
    assert [(row["task"], row["metric"], row["n"], row["apply_chat_template"]) for row in scores["scores"]] == [
        ("bits_per_byte/village", "bits_per_byte", 4, False),
        ("microworld/comprehension", "acc", 6, False),
        ("microworld/generation", "exact_match", 4, False),
        ("microworld/chat_answers", "exact_match", 4, True),
        ("reward/wishes", "village_story", 5, True),
    ]
    needed = {"value", "stderr", "n", "version", "num_fewshot", "limit", "template_digest", "bos_policy", "dtype"}
    for row in scores["scores"]:
        assert needed <= set(row)
        assert (row["template_digest"] is not None) == row["apply_chat_template"]
        assert isinstance(row["stderr"], float)
    assert [sample["kind"] for sample in scores["samples"]] == ["text"] * 3 + ["chat"] * 3
    assert scores["samples"][3]["prompt"].startswith("Write a story about ")


def test_one_task_asked_in_several_ways_keeps_every_number(tmp_path, folders):
    task = {"name": "microworld/comprehension"}
    tasks = [task | {"limit": 6}, task | {"limit": 6, "num_fewshot": 2}, task | {"limit": 4}, TASKS[0], TASKS[4]]
    metrics = evaluate.run(context(tmp_path, folders, [*tasks, TASKS[4] | {"temperature": 0.5}]))
    assert list(metrics) == [
        "microworld/comprehension (limit 6).acc",
        "microworld/comprehension (2-shot, limit 6).acc",
        "microworld/comprehension (limit 4).acc",
        "bits_per_byte/village.bits_per_byte",
        "reward/wishes.village_story",
        "reward/wishes (temperature 0.5).village_story",
    ]
    rows = json.loads((tmp_path / "output" / "scores.json").read_text())["scores"]
    assert [row["value"] for row in rows] == list(metrics.values())
    assert {row["task"] for row in rows} == {task["name"], "bits_per_byte/village", "reward/wishes"}


def test_embeddings_are_scored_and_what_words_lie_near_is_kept(tmp_path, folders):
    (tmp_path / "near.tsv").write_text("Mia Tom 9\nMia uptown 1\nindoors outside 5\n")
    (tmp_path / "own.txt").write_text("Mia Tom Nora Leo\n")
    files = {"task.1.pairs": str(tmp_path / "near.tsv"), "task.1.analogies": str(tmp_path / "own.txt")}
    tasks = [TASKS[0], {"name": "embeddings", "words": ["Mia", "Tom"], "pairs": "near.tsv", "analogies": "own.txt"}]
    scores = run(tmp_path / "a", folders, tasks, named_files=files)
    assert [row["task"] for row in scores["scores"][1:]] == ["embeddings"] * 2 + ["embeddings/near", "embeddings/own"]
    assert list(scores["embeddings"]["neighbours"]) == list(scores["embeddings"]["points"]) == ["Mia", "Tom"]
    assert run(tmp_path / "b", folders, tasks, named_files=files) == scores
    bare = run(tmp_path / "c", folders, [TASKS[0], {"name": "embeddings"}])
    assert len(bare["scores"]) == 3 and "embeddings" not in bare


def test_scores_do_not_depend_on_the_batch_size(tmp_path, folders):
    tasks = TASKS[:2]
    first, second = (run(tmp_path / str(size), folders, tasks, batch_size=size)["scores"] for size in (1, 5))
    for one, other in zip(first, second, strict=True):
        assert one["value"] == pytest.approx(other["value"], abs=1e-6)
        assert one["stderr"] == pytest.approx(other["stderr"], abs=1e-6)


def test_the_same_job_gives_the_same_bytes(tmp_path, folders):
    tasks = [TASKS[0], TASKS[4]]
    for name in ("a", "b"):
        run(tmp_path / name, folders, tasks)
    written = [(tmp_path / name / "output" / "scores.json").read_bytes() for name in ("a", "b")]
    assert written[0] == written[1]


def test_without_texts_of_its_own_every_model_goes_on_from_the_same_word(tmp_path, folders):
    (sample,) = run(tmp_path, folders, [TASKS[1]])["samples"]
    assert (sample["kind"], sample["prompt"]) == ("text", "Today")


def test_prompts_that_leave_no_room_are_one_line(tmp_path, folders):
    task = TASKS[4] | {"max_completion_length": 255}
    with pytest.raises(DataError, match="no held-out prompt of 'wishes' leaves room"):
        run(tmp_path, folders, [task])
