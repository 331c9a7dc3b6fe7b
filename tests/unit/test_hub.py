"""Hub datasets file by file: the rows that `datasets` gives, each file fetched once, and little of it on the disk."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_jobs import run_data
from hub_server import COMMIT, REPO, Hub, serving

from pipelines.data import hub
from pipelines.data.rows import read_rows
from pipelines.data.shards import grouped
from pipelines.data.sources import read, read_hub
from pipelines.errors import DataError, MachineError
from pipelines.recipe.data import Dataset

ROWS = [{"text": f"row {number}", "number": number, "meta": {"a": number}} for number in range(50)]
MIXED = [{"text": "a", "x": {"k": 1}}, {"text": "b", "x": {"k": "one"}}]
TABS = 'configs:\n- config_name: default\n  sep: "\\t"\n  data_files:\n  - split: train\n    path: d/*.csv'
LABELS = """dataset_info:
  features:
  - {name: text, dtype: string}
  - {name: label, dtype: {class_label: {names: {'0': bad, '1': good}}}}
  splits: [{name: train, num_bytes: 10, num_examples: 2}]"""


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


REPOSITORIES: dict[str, dict[str, Any]] = {
    "jsonl": {"train-0.jsonl": lines(ROWS[:20]), "train-1.jsonl": lines(ROWS[20:]), "test.jsonl": lines(ROWS[:3])},
    "gz": {"data/train-0.jsonl.gz": gzip.compress(lines(ROWS[:20])), "data/train-1.jsonl": lines(ROWS[20:])},
    "a column less": {"train-0.jsonl": lines(ROWS[:20]), "train-1.jsonl": lines([{"text": "only"}])},
    "array": {"train-0.json": json.dumps(ROWS[:20]).encode(), "train-1.json": json.dumps(ROWS[20:]).encode()},
    "types within a column": {"train-0.jsonl": lines(MIXED), "train-1.jsonl": lines(MIXED[::-1])},
    "types between files": {"train-0.jsonl": lines([{"text": "1"}]), "train-1.jsonl": lines([{"text": 2}])},
    "csv": {"train-0.csv": b"text,n\na,1\nb,2\n", "train-1.csv": b"text,n\nc,3.0\nd,4\n"},
    "csv of tabs": {"d/a.csv": b"text\tn\na\t1\n", "d/b.csv": b"text\tn\nc\t3\n", "README.md": TABS},
    "txt": {"train-0.txt": b"a\n\nb\r\nc", "train-1.txt": b"d\n"},
    "parquet": {"data/train-00000-of-00002.parquet": ROWS[:20], "data/train-00001-of-00002.parquet": ROWS[20:]},
    "labels": {
        "data/train-0.jsonl": lines([{"text": "a", "label": 0}]),
        "data/train-1.jsonl": lines([{"text": "b", "label": 1}]),
        "README.md": LABELS,
    },
}


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            pq.write_table(pa.Table.from_pylist(content), path)
        else:
            path.write_bytes(f"---\n{content}\n---\n".encode() if isinstance(content, str) else content)
    return folder


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's cache of this machine."""
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(hub, "WAITS_SECONDS", (0.01,))
    return cache


@pytest.fixture
def server(tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on this machine, for this process and for workers."""
    import datasets.config
    import huggingface_hub.constants as constants

    with serving(tmp_path / "repository") as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = f"{served.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", served.url)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(empty_cache))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_DATASETS_OFFLINE", "0")
        yield served


def numbered(folder: Path, files: int = 4, rows: int = 100) -> Path:
    """Files of about 2 kB."""
    content = [lines([{"text": f"row {rows * file + row}"} for row in range(rows)]) for file in range(files)]
    return write(folder, {f"data/train-{file}.jsonl": content[file] for file in range(files)})


def texts(output: Path) -> list[str]:
    return [row["text"] for batch in read_rows(output, "train") for row in batch]


@pytest.mark.parametrize("name", REPOSITORIES)
def test_file_by_file_the_rows_are_those_of_the_whole(name: str, empty_cache: Path, tmp_path: Path) -> None:
    repo, files = f"org/{name.replace(' ', '-')}", REPOSITORIES[name]
    write(empty_cache / f"datasets--{repo.replace('/', '--')}" / "snapshots" / COMMIT, files)
    whole = [item.row for item in read_hub(repo, None, "train", revision=COMMIT, cache=tmp_path / "whole")]
    dataset = Dataset(hub=repo, revision=COMMIT)
    split = hub.find(dataset, tmp_path / "c")["train"]
    assert len(split.files) == 2 and all(split.sizes)
    parts = [json.loads(json.dumps(split.part([number]))) for number in range(2)]
    found = [item for part in parts for item in read(dataset, [], tmp_path / "c", part)]
    assert [item.row for item in found] == whole and len(whole) >= 2
    assert (found[0].file, found[0].line) == (f"hub:{repo}/{split.files[0]}", 1)
    assert found[-1].file == f"hub:{repo}/{split.files[1]}"


@pytest.mark.parametrize("workers", [1, 2])
def test_each_part_is_fetched_once_and_nothing_of_it_stays(
    workers: int, server: Hub, tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered(server.folder)
    monkeypatch.setattr(grouped, "__defaults__", (3_000,))
    held: list[int] = []
    fetch = hub._rows

    def watched(split: hub.Split, name: str, path: Path, folder: Path) -> Any:
        held.append(len([file for file in (tmp_path / "d").rglob("*.jsonl") if file.parent.name == "data"]))
        return fetch(split, name, path, folder)

    monkeypatch.setattr(hub, "_rows", watched)
    output, metrics = run_data(tmp_path / "d", hub=REPO, revision=COMMIT, holdout=0.0, workers=workers)
    assert texts(output) == [f"row {number}" for number in range(400)] and metrics["train"] == 400
    first, *others = (server.fetched[f"data/train-{file}.jsonl"] for file in range(4))
    assert first == 2 and others == [1, 1, 1]  # the types of the columns are those of the first file
    assert len(list((tmp_path / "d" / "checkpoints" / "parts" / "rows").iterdir())) == 4
    assert held == ([1] * 4 if workers == 1 else [])  # workers are processes of their own
    left = [path.name for folder in (tmp_path / "d", empty_cache) for path in folder.rglob("*.jsonl")]
    assert sorted(left) == [*["dropped.jsonl"] * 5, "progress.jsonl"]  # four of parts and the whole's


def test_a_run_that_failed_goes_on_with_the_parts_that_it_lacks(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered(server.folder)
    monkeypatch.setattr(grouped, "__defaults__", (3_000,))
    server.faults["data/train-2.jsonl"] = ["503"] * 3
    with pytest.raises(MachineError, match=r"cannot be reached: .*503") as error:
        run_data(tmp_path / "d", hub=REPO, revision=COMMIT, holdout=0.0)
    assert "\n" not in str(error.value)
    server.fetched.clear(), server.faults.clear()
    output, _ = run_data(tmp_path / "d", hub=REPO, revision=COMMIT, holdout=0.0)
    assert texts(output) == [f"row {number}" for number in range(400)]
    assert "data/train-1.jsonl" not in server.fetched and server.fetched["data/train-3.jsonl"] == 1


def test_a_connection_that_breaks_is_tried_again(server: Hub, tmp_path: Path) -> None:
    numbered(server.folder)
    server.faults = {"data/train-1.jsonl": ["drop", "503"], "data/train-3.jsonl": ["503"]}
    output, _ = run_data(tmp_path / "d", hub=REPO, revision=COMMIT, holdout=0.0)
    assert texts(output) == [f"row {number}" for number in range(400)]


def test_the_first_rows_need_the_first_files_only(server: Hub, tmp_path: Path) -> None:
    numbered(server.folder)
    output, metrics = run_data(tmp_path / "d", hub=REPO, revision=COMMIT, holdout=0.0, limit=150)
    assert texts(output) == [f"row {number}" for number in range(150)] and metrics["rows_in"] == 150
    assert server.fetched["data/train-1.jsonl"] == 1 and "data/train-2.jsonl" not in server.fetched


def test_a_split_that_is_the_holdout_is_read_file_by_file_too(server: Hub, tmp_path: Path) -> None:
    numbered(server.folder)
    write(server.folder, {"data/test-0.jsonl": lines([{"text": "row 7"}, {"text": "held out"}])})
    _, metrics = run_data(tmp_path / "d", hub=REPO, revision=COMMIT, holdout_split="test", max_dropped=0.1)
    assert (metrics["holdout"], metrics["train"], metrics["dropped_also_in_holdout"]) == (2, 399, 1)


def test_a_slice_of_a_split_is_cut_by_datasets(server: Hub, tmp_path: Path) -> None:
    numbered(server.folder)
    output, _ = run_data(tmp_path / "d", hub=REPO, revision=COMMIT, holdout=0.0, split="train[:10%]")
    assert texts(output) == [f"row {number}" for number in range(40)]


def test_fewer_rows_than_the_card_promises_stop_the_job(server: Hub, tmp_path: Path) -> None:
    write(numbered(server.folder), {"README.md": LABELS.replace("label,", "number,")})
    with pytest.raises(DataError, match="gave 400 rows, and its card says 2"):
        run_data(tmp_path / "d", hub=REPO, revision=COMMIT)


@pytest.mark.parametrize(("what", "error"), [("nowhere", "has no split 'nowhere'; it has train"), ("", "no rows")])
def test_what_is_not_there_is_told_before_anything_is_fetched(
    what: str, error: str, server: Hub, tmp_path: Path
) -> None:
    write(server.folder, {"data/train-0.jsonl": lines(ROWS) if what else b"\n"})
    with pytest.raises(DataError, match=error):
        run_data(tmp_path / "d", hub=REPO, revision=COMMIT, **({"split": what} if what else {}))
    assert not what or not server.fetched


def shards(folder: Path, held: list[int]) -> Path:
    """Those of three files that are held."""
    files = {f"data/train-{n:05d}-of-00003.parquet": [{"text": f"row {n}"}] for n in held}
    return write(folder / "datasets--org--tiny" / "snapshots" / COMMIT, files)


@pytest.mark.parametrize("split", ["train", "train[:50%]"])
def test_a_cache_that_lacks_a_shard_stops_the_job(split: str, empty_cache: Path, tmp_path: Path) -> None:
    """Its rows would carry the fingerprint of the whole commit."""
    shards(empty_cache, [0, 2])
    with pytest.raises(MachineError, match=r"cache holds 2 of 3 files data/train-\*-of-00003; .* needs a network"):
        run_data(tmp_path / "d", hub=REPO, revision=COMMIT, holdout=0.0, split=split)


def test_what_a_cache_says_of_its_files_is_told(
    empty_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shards(empty_cache, [0, 1, 2])
    _, metrics = run_data(tmp_path / "d", hub=REPO, revision=COMMIT, holdout=0.0)
    assert metrics["train"] == 3 and "which does not say if all its files are there" in capsys.readouterr().out
    listing = {path.relative_to(folder).as_posix(): {"size": 1, "blob_id": "0"} for path in folder.rglob("*.parquet")}
    (folder.parents[1] / "trees").mkdir()
    (folder.parents[1] / "trees" / f"{COMMIT}.json").write_text(json.dumps({"format_version": 1, "files": listing}))
    assert hub.cached_snapshot(REPO, COMMIT) == folder and not capsys.readouterr().out
    (folder / "data" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(MachineError, match="cannot be reached"):
        run_data(tmp_path / "e", hub=REPO, revision=COMMIT, holdout=0.0)
    assert "1 file(s) are missing (data/train-00001-of-00003.parquet)" in capsys.readouterr().out


@pytest.mark.parametrize("empty", [0, 1])
def test_a_file_without_rows_is_no_fault(empty: int, empty_cache: Path, tmp_path: Path) -> None:
    folder = shards(empty_cache, [0, 1, 2])
    nothing = pa.table({"text": pa.array([], pa.string())})
    pq.write_table(nothing, folder / f"data/train-{empty:05d}-of-00003.parquet")
    output, _ = run_data(tmp_path / "d", hub=REPO, revision=COMMIT, holdout=0.0)
    assert texts(output) == [f"row {number}" for number in range(3) if number != empty]


def test_a_file_of_other_columns_is_told_with_both(empty_cache: Path, tmp_path: Path) -> None:
    folder = shards(empty_cache, [0, 1, 2])
    write(folder, {"data/train-00001-of-00003.parquet": [{"content": "row 1"}]})
    with pytest.raises(
        DataError, match=r"00001.*: has the columns 'content', and the first file of the split 'text'; choose"
    ):
        run_data(tmp_path / "d", hub=REPO, revision=COMMIT, holdout=0.0)
