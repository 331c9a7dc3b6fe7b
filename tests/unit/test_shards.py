"""Work in shards: the same result from any number of workers, and none of it made twice."""

import json
from pathlib import Path

import pytest
from shard_jobs import build, made, make, parts, threads

from pipelines.data.shards import PROGRESS, grouped
from pipelines.errors import DataError, MachineError


@pytest.mark.parametrize("workers", [1, 2])
def test_parts_are_made_once_and_come_in_order(tmp_path: Path, workers: int) -> None:
    for _ in range(2):
        folders = make(tmp_path, parts(tmp_path, 5), workers=workers)
        assert made(folders) == [0, 1, 4, 9, 16] and folders == sorted(folders)
    assert sorted((tmp_path / "calls").read_text().split()) == list("01234")


@pytest.mark.parametrize("workers", [1, 2])
def test_what_goes_wrong_is_told_and_what_was_made_is_kept(tmp_path: Path, workers: int) -> None:
    with pytest.raises(DataError, match="part 1 is bad"):
        make(tmp_path, parts(tmp_path, 2, fail=[1]), workers=workers)
    whole = [path.name[:5] for path in (tmp_path / "parts").iterdir() if not path.name.endswith(".partial")]
    # Of two at the same time the other one may not have begun.
    assert whole == ["00000"] or (workers == 2 and whole == [])


def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    folders = make(tmp_path, parts(tmp_path, 4, die_once=[2]), workers=2)
    assert made(folders) == [0, 1, 4, 9]
    assert (tmp_path / "calls").read_text().split().count("2") == 2
    assert not list((tmp_path / "parts").glob("*.partial"))


def test_of_several_workers_each_has_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    told = [folder / "threads" for folder in make(tmp_path, parts(tmp_path, 2), work=threads, workers=2)]
    assert [path.read_text() for path in told] == ["false", "false"]


def test_workers_that_die_again_and_again_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="killed 3 times over"):
        make(tmp_path, parts(tmp_path, 2, die=[0, 1]), workers=2)


def test_after_each_part_is_said_how_far_the_work_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError):
        make(tmp_path, parts(tmp_path, 3, fail=[1]))
    (tmp_path / "parts" / "00001-gone.partial").mkdir()
    make(tmp_path, parts(tmp_path, 3))  # other parts: none of the first run's are there
    make(tmp_path, parts(tmp_path, 3))
    told = [json.loads(line) for line in (tmp_path / PROGRESS).read_text().splitlines()]
    assert [(one["pass"], one["step"], one["max_steps"]) for one in told] == [("parts", n, 3) for n in (1, 1, 2, 3)]
    assert told[2]["seconds_left"] >= told[3]["seconds_left"] == 0
    shown = [f"parts: part {n} of 3" for n in (1, 1, 2, 3)]
    assert capsys.readouterr().out.splitlines() == [*shown, "3 of 3 parts are there"]
    make(tmp_path / "one", parts(tmp_path, 1))
    assert not (tmp_path / "one" / PROGRESS).exists(), "of a single part there is nothing to say"


def test_other_parts_are_not_taken_for_these(tmp_path: Path) -> None:
    make(tmp_path, parts(tmp_path, 3), workers=1)
    folders = make(tmp_path, parts(tmp_path, 2, other=1), workers=1)
    assert sorted((tmp_path / "parts").iterdir()) == folders


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [([], []), ([5], [[0]]), ([3, 3, 3, 9, 1, 1], [[0, 1], [2], [3], [4, 5]]), ([8, 8], [[0], [1]])],
)
def test_neighbours_are_put_together(sizes: list[int], groups: list[list[int]]) -> None:
    assert list(grouped(sizes, most=7)) == groups


def test_the_result_does_not_depend_on_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped, "__defaults__", (4_000,))
    one, two = build(tmp_path / "one", workers=1), build(tmp_path / "two", workers=2)
    assert int(one["parts"]) > 4 and "length" in one["dropped"]
    # places of rows name their files, which lie in different folders
    assert {name for name in one if one[name] != two[name]} <= {"data-tales/info.json"}
