"""Folders that exist whole or not at all."""

import json
from pathlib import Path

import pytest

from pipelines.store import durable


def folder(root: Path, name: str = "work", text: str = "abc") -> Path:
    work = root / name
    (work / "output" / "deep").mkdir(parents=True)
    (work / "output" / "deep" / "a.txt").write_text(text)
    (work / "output" / "b.txt").write_text("b")
    (work / "record").mkdir()
    (work / "record" / "log.txt").write_text("log")
    return work


def test_a_published_folder_verifies_and_its_record_stays_outside_the_digest(tmp_path: Path) -> None:
    first = durable.publish(folder(tmp_path), tmp_path / "one", fields={"kind": "x"}, content="output")
    other = folder(tmp_path)
    (other / "record" / "log.txt").write_text("another log")
    second = durable.publish(other, tmp_path / "two", content="output")
    assert sorted(first["files"]) == ["b.txt", "deep/a.txt"] and first["kind"] == "x"
    assert first["digest"] == second["digest"]
    assert durable.verify(tmp_path / "one") == first
    assert not (tmp_path / "work").exists() and (tmp_path / "one" / "record" / "log.txt").read_text() == "log"


@pytest.mark.parametrize("fault", ["missing", "truncated", "flipped", "no manifest", "half a manifest", "other table"])
def test_damage_is_named(tmp_path: Path, fault: str) -> None:
    final = tmp_path / "final"
    durable.publish(folder(tmp_path), final, content="output")
    file, manifest = final / "output" / "deep" / "a.txt", final / "manifest.json"
    match fault:
        case "missing":
            file.unlink()
        case "truncated":
            file.write_text("ab")
        case "flipped":
            file.write_text("abd")
        case "no manifest":
            manifest.unlink()
        case "half a manifest":
            manifest.write_text(manifest.read_text()[:100])
        case "other table":
            table = json.loads(manifest.read_text())
            del table["files"]["b.txt"]
            manifest.write_text(json.dumps(table))
    named = file if fault in ("missing", "truncated", "flipped") else manifest
    with pytest.raises(durable.Damaged, match=str(named)):
        durable.verify(final)


def test_a_look_at_sizes_alone_misses_a_flipped_byte(tmp_path: Path) -> None:
    durable.publish(folder(tmp_path), tmp_path / "final", content="output")
    (tmp_path / "final" / "output" / "b.txt").write_text("c")
    durable.verify(tmp_path / "final", contents=False)
    with pytest.raises(durable.Damaged):
        durable.verify(tmp_path / "final")


def test_a_damaged_folder_is_replaced(tmp_path: Path) -> None:
    durable.publish(folder(tmp_path), tmp_path / "final", content="output")
    (tmp_path / "final" / "output" / "b.txt").unlink()
    durable.publish(folder(tmp_path, text="new"), tmp_path / "final", content="output")
    assert (tmp_path / "final" / "output" / "deep" / "a.txt").read_text() == "new"
    durable.verify(tmp_path / "final")


def test_the_newest_checkpoint_that_verifies_is_used_and_others_are_named(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        durable.publish(folder(tmp_path), tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-10" / "output" / "b.txt").write_text("?")
    (tmp_path / "checkpoint-x").mkdir()
    told: list[str] = []
    assert durable.newest(tmp_path, told.append) == (9, tmp_path / "checkpoint-9")
    assert len(told) == 1 and "checkpoint-10" in told[0]


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    assert durable.newest(tmp_path / "nowhere") is None


def test_pruning_keeps_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 11):
        durable.publish(folder(tmp_path), tmp_path / f"checkpoint-{step}")
    durable.prune(tmp_path, 2)
    assert [step for step, _ in durable.checkpoints(tmp_path)] == [11, 2]


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "outcome.json"
    durable.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="nan"):
        durable.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1} and list(tmp_path.iterdir()) == [path]
