"""What the plan says of data before anything runs, against what runs make of it."""

import bz2
import gzip
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from data_jobs import run_data, run_tokenizer, run_tokens
from hub_server import COMMIT, REPO, serving

from pipelines.cli import main
from pipelines.data import microworld, shards
from pipelines.data.formats import num_bytes
from pipelines.data.rows import read_rows
from pipelines.plan import hub_sizes, rates
from pipelines.plan.data_estimate import data_estimates
from pipelines.plan.estimate import Estimate
from pipelines.plan.planner import make_plan
from pipelines.recipe.load import load_recipe
from pipelines.recipe.quality import Measuring, Perplexity

WITHIN = 2.0
"""Factor between what is told and what comes."""


def texts(count: int = 400, words: int = 120) -> list[str]:
    """Prose of a kind: words as frequent as in a language."""
    draw = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgk"
    known = ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(4_000)]
    weights = [1 / (rank + 1) for rank in range(len(known))]
    return [" ".join(draw.choices(known, weights, k=words)) for _ in range(count)]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(folder: Path, name: str) -> list[Path]:
    """Some rows as files of one kind."""
    folder.mkdir()
    rows = [{"text": text, "other": text[::-1] * 2} for text in texts()]
    plain = [{"text": row["text"]} for row in rows]
    halves = (plain[:200], plain[200:])
    content: dict[str, list[bytes]] = {
        "a.jsonl": [lines(half) for half in halves],
        "b.jsonl.gz": [gzip.compress(lines(half)) for half in halves],
        "c.jsonl.bz2": [bz2.compress(lines(plain))],
        "d.jsonl.zst": [zstandard.compress(lines(half)) for half in halves],
        "e.txt": [row["text"].encode() for row in plain[:50]],
        "f.txt.gz": [gzip.compress("\n".join(texts()).encode())],
        "g.csv": ["\n".join(["text", *(f'"{text}"' for text in texts())]).encode()],
        "other columns.jsonl": [lines(rows)],
    }
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
    for number, part in enumerate(content.get(name, [])):
        (folder / f"{number}-{name}").write_bytes(part)
    return sorted(folder.iterdir())


def told(folder: Path, finished: Mapping[str, Mapping[str, Any]] | None = None, **data: Any) -> dict[str, Estimate]:
    """Estimates of a recipe with one dataset."""
    path = folder / "r.yaml"
    stages = {
        "tokenizer": {"vocab_size": 600, "data": "x"},
        "pretrain": {"data": "x", "max_length": 32, "duration": "1 epochs", "global_batch_size": 4, "learning_rate": 1},
    }
    model = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32}
    path.write_text(json.dumps({"name": "r", "data": {"x": data}, "model": model, "stages": stages}))
    plan = make_plan(load_recipe(path).recipe, path=path, digest=lambda path: path.name)
    return data_estimates(plan, finished or {}, 2)


def size_of(folder: Path, pattern: str = "*") -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def near(said: float | None, real: float) -> bool:
    return said is not None and real / WITHIN <= said <= real * WITHIN


NAMES = [
    *("a.jsonl", "b.jsonl.gz", "c.jsonl.bz2", "d.jsonl.zst", "e.txt", "f.txt.gz", "g.csv"),
    *("other columns.jsonl", "h.parquet"),
]


@pytest.mark.parametrize("name", NAMES)
def test_bytes_and_disk_are_told_before_data_are_read(name: str, tmp_path: Path) -> None:
    files, settings = write(tmp_path / "data", name), {"separator": "line"} if name == "f.txt.gz" else {}
    said = told(tmp_path, files="data/*", **settings)["data-x"]
    output, metrics = run_data(tmp_path / "d", files, **settings)
    assert said.bytes_in == sum(path.stat().st_size for path in files)
    assert near(said.text_bytes, float(metrics["bytes"])) and near(said.rows, float(metrics["rows_in"]))
    assert near(said.disk_bytes, size_of(output, "*.parquet"))


def test_a_look_into_packed_files_says_how_large_they_are(tmp_path: Path) -> None:
    plain = sum(len(lines([{"text": text}])) for text in texts())
    for name in ("b.jsonl.gz", "c.jsonl.bz2", "d.jsonl.zst"):
        write(tmp_path / name[0], name)
        said = told(tmp_path, files=f"{name[0]}/*")["data-x"]
        assert abs((said.unpacked_bytes or 0) - plain) < 0.05 * plain
        assert said.basis == "a look into packed files" and (said.bytes_in or 0) < plain / 2


def test_a_packed_file_that_is_damaged_is_still_planned(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(b"no gzip at all" * 100)
    said = told(tmp_path, files="a.txt.gz")["data-x"]
    assert said.unpacked_bytes == int(1400 * rates.RATIO[".gz"])


def test_the_first_rows_cost_their_part(tmp_path: Path) -> None:
    files = write(tmp_path / "data", "a.jsonl")
    whole, part = (told(tmp_path, files="data/*", **more)["data-x"] for more in ({}, {"limit": 100}))
    _, metrics = run_data(tmp_path / "d", files, limit=100)
    assert part.rows == 100 and near(part.text_bytes, float(metrics["bytes"]))
    assert (part.core_seconds or 0) < (whole.core_seconds or 0)


def test_tokens_are_told_from_text_and_better_from_what_is_finished(tmp_path: Path) -> None:
    files = write(tmp_path / "data", "a.jsonl")
    data, made = run_data(tmp_path / "d", files)
    tokenizer, learnt = run_tokenizer(tmp_path / "t", {data: 1.0}, vocab_size=600)
    output, metrics = run_tokens(tmp_path / "k", data, tokenizer, "text")
    first = told(tmp_path, files="data/*")
    assert first["tokens-x"].basis == "usual bytes per token"
    assert near(first["tokens-x"].tokens, float(metrics["tokens"]))
    assert near(first["tokens-x"].disk_bytes, size_of(output)) and near(
        first["tokenizer"].disk_bytes, size_of(tokenizer)
    )
    later = told(tmp_path, {"data-x": made, "tokenizer": learnt}, files="data/*")
    assert later["data-x"].text_bytes == made["bytes"] and later["tokens-x"].rows == made["rows_used"]
    exact = abs((later["tokens-x"].tokens or 0) - float(metrics["tokens"])) / float(metrics["tokens"])
    assert exact < 0.1 and abs((later["tokens-x"].disk_bytes or 0) - size_of(output)) < 0.1 * size_of(output)


@pytest.mark.parametrize("track", sorted(microworld.TRACKS))
def test_the_built_in_world_is_as_large_as_told(track: str, tmp_path: Path) -> None:
    known, real = rates.BUILTIN[track], microworld.TRACKS[track]
    assert (known.train, known.holdout) == (real.train, real.holdout)
    output, metrics = run_data(tmp_path / "d", builtin=f"microworld/{track}", limit=200)
    assert near(known.text, float(metrics["bytes"]) / float(metrics["rows_used"]))
    (row, *_), *_ = read_rows(output, "train")
    assert near(known.text, num_bytes(real.format, row)) or track == "prompts"


def test_cleaned_data_are_told_as_if_nothing_went(tmp_path: Path) -> None:
    write(tmp_path / "data", "a.jsonl")
    plain = told(tmp_path, files="data/*")
    near, cut = (told(tmp_path, files="data/*", deduplicate=fields) for fields in (True, {"spans": 50}))
    assert near["clean-x"].text_bytes == plain["data-x"].text_bytes == cut["clean-x"].text_bytes
    assert near["tokens-x"].tokens == plain["tokens-x"].tokens
    assert 0 < (near["clean-x"].core_seconds or 0) < (cut["clean-x"].core_seconds or 0)
    assert (near["clean-x"].kept_bytes or 0) < (near["clean-x"].disk_bytes or 0) < (cut["clean-x"].disk_bytes or 0)


def test_filters_cost_more_and_what_they_measure_together_is_counted_once(tmp_path: Path) -> None:
    write(tmp_path / "data", "a.jsonl")
    settings: list[dict[str, Any]] = [{}, {"quality": ["length"]}, {"quality": ["length", "gopher_quality"]}]
    plain, one, two = (told(tmp_path, files="data/*", **more)["data-x"].core_seconds or 0.0 for more in settings)
    assert plain < one and abs(two - one) < 0.01 * (one - plain)


def test_every_filter_has_its_rate() -> None:
    of_bytes = {item.model_fields["kind"].annotation for item in get_args(Measuring | Perplexity)}
    assert {kind for one in of_bytes for kind in get_args(one)} == set(rates.FILTER)


def test_a_classifier_is_told_by_its_size(tmp_path: Path) -> None:
    write(tmp_path / "data", "a.jsonl")
    (tmp_path / "marks.jsonl").write_bytes(lines([{"text": "a", "label": 0}, {"text": "b", "label": 1}]))

    def seconds(width: int | None) -> float:
        quality = [{"kind": "classifier", "model": "judge", "label": 1}] if width else ["length"]
        trained = {"duration": "1 epochs", "global_batch_size": 4, "learning_rate": 1.0, "max_length": 32}
        recipe = {
            "name": "r",
            "data": {
                "x": {"files": "data/*", "quality": quality},
                "marks": {"files": "marks.jsonl", "format": "labelled", "holdout": 0},
            },
            "model": {
                **{"architecture": "encoder", "hidden_size": width or 16, "num_hidden_layers": 1},
                **{"num_attention_heads": 2, "max_position_embeddings": 32},
            },
            "stages": {
                "tokenizer": {"vocab_size": 600, "data": "marks", "mask_token": True},
                "pretrain": {"objective": "masked_lm", "data": "x", **trained},
                "judge": {"kind": "finetune", "task": "classification", "data": "marks", **trained},
            },
        }
        (tmp_path / "r.yaml").write_text(json.dumps(recipe))
        loaded = load_recipe(tmp_path / "r.yaml")
        plan = make_plan(loaded.recipe, path=loaded.path, digest=lambda path: path.name)
        return data_estimates(plan, {}, 2)["data-x"].core_seconds or 0.0

    assert seconds(None) < seconds(16) < seconds(64)


def test_work_in_parts_is_shared_and_the_rest_is_not(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(2):
        with (tmp_path / "data" / f"{number}.txt").open("wb") as file:
            file.truncate(shards.SHARD_BYTES)
    assert rates.PART_BYTES == shards.SHARD_BYTES
    said = told(tmp_path, files="data/*")
    assert said["data-x"].wall_seconds == (said["data-x"].core_seconds or 0) / 2
    assert said["tokenizer"].wall_seconds == said["tokenizer"].core_seconds


CARD = {
    "dataset_info": [
        {"config_name": "other", "splits": [], "download_size": 1},
        {
            "config_name": "default",
            "download_size": 3_000,
            "splits": [
                {"name": "train", "num_bytes": 9_000, "num_examples": 90},
                {"name": "test", "num_bytes": 1_000, "num_examples": 10},
            ],
        },
    ]
}


def test_of_the_hub_its_card_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = tmp_path / "hub" / "datasets--org--tiny" / "snapshots" / COMMIT
    repo.mkdir(parents=True)
    (repo / "README.md").write_text(f"---\n{json.dumps(CARD)}\n---\ntext\n")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    said = told(tmp_path, hub=REPO, revision=COMMIT)["data-x"]
    assert (said.bytes_in, said.text_bytes, said.rows, said.basis) == (2_700, 9_000, 90, "the Hub's card")
    assert told(tmp_path, hub=REPO, revision=COMMIT, limit=9)["data-x"].text_bytes == 900


def test_the_hub_is_asked_where_nothing_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub_sizes, "PATIENCE_SECONDS", 10.0)
    (tmp_path / "repository").mkdir()
    with serving(tmp_path / "repository") as server:
        server.card = CARD
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        assert told(tmp_path, hub=REPO, revision=COMMIT)["data-x"] == Estimate(basis="unknown until fetched")
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_DATASETS_OFFLINE", "0")
        assert told(tmp_path, hub=REPO, revision=COMMIT)["data-x"].text_bytes == 9_000
    assert told(tmp_path, hub=REPO, revision=COMMIT)["tokens-x"] == Estimate(basis="unknown until fetched")


def test_a_dataset_that_is_not_pinned_is_planned_as_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    told(tmp_path, hub=REPO)
    assert main(["plan", str(tmp_path / "r.yaml"), "--store", str(tmp_path / "store")]) == 0
    shown = capsys.readouterr().out
    assert "(unknown until fetched)" in shown and "Without data-x and what is made of it" in shown
    assert "The commit is not pinned yet of org/tiny; `make data` pins it" in shown
    assert main(["run", str(tmp_path / "r.yaml"), "--store", str(tmp_path / "store")]) == 2


def test_the_whole_is_told_with_the_room_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "data", "a.jsonl")
    told(tmp_path, files="data/*")
    assert main(["plan", str(tmp_path / "r.yaml"), "--store", str(tmp_path / "store"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    jobs = {job["name"]: job.get("estimate", {}) for job in answer["jobs"]}
    assert answer["totals"]["bytes_in"] == jobs["data-x"]["bytes_in"] and answer["totals"]["free_bytes"] > 0
    assert jobs["pretrain"]["tokens"] == jobs["tokens-x"]["tokens"]
    kept = sum(job.get("kept_bytes", 0) for job in jobs.values())
    assert answer["totals"]["disk_bytes"] == kept + jobs["pretrain"]["disk_bytes"] - jobs["pretrain"]["kept_bytes"]


@pytest.mark.parametrize(("free", "is_said"), [(10**9, False), (10, True)])
def test_too_little_room_is_said(
    free: int, is_said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told(tmp_path, builtin="microworld/text")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    assert main(["plan", str(tmp_path / "r.yaml"), "--store", str(tmp_path / "not" / "there")]) == 0
    shown = capsys.readouterr().out
    assert "Disk: about" in shown and ("make room" in shown) == is_said
