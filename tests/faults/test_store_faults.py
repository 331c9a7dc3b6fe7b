"""Kills and full disks at every single step of publishing."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_recipe import only_data, planned

from pipelines.store import durable
from pipelines.store.artifacts import ArtifactStore, survey


class Killed(BaseException):
    """Stands for a process that ends here."""


STEPS = ("fsync", "rename", "open", "unlink")
"""What publishing asks of the operating system."""


class Interrupted:
    """Lets `allowed` steps pass and ends the process at the next one."""

    def __init__(self, patch: pytest.MonkeyPatch, allowed: int, end: Callable[[], BaseException]):
        self.left, self.end, self.seen = allowed, end, 0
        for name in STEPS:
            patch.setattr(os, name, self._watched(getattr(os, name)))
        patch.setattr(Path, "rename", self._watched(Path.rename))
        patch.setattr(Path, "replace", self._watched(Path.replace))
        patch.setattr(shutil, "rmtree", self._watched(shutil.rmtree))

    def _watched(self, step: Callable) -> Callable:
        def watched(*arguments: object, **named: object) -> object:
            self.seen += 1
            if self.left == 0:
                raise self.end()
            self.left -= 1
            return step(*arguments, **named)

        return watched


def begun(folder: Path) -> Path:
    work = folder / "work"
    (work / "output").mkdir(parents=True)
    for name in "ab":
        (work / "output" / name).write_text(name * 10)
    return work


@pytest.mark.parametrize("over_damaged", [False, True])
def test_a_kill_at_any_step_leaves_all_or_nothing(tmp_path: Path, over_damaged: bool) -> None:
    for step in range(200):
        folder = tmp_path / str(step)
        work, final = begun(folder), folder / "final"
        if over_damaged:
            durable.publish(begun(folder / "old"), final, content="output")
            (final / "output" / "a").unlink()
        with pytest.MonkeyPatch.context() as patch:
            watch = Interrupted(patch, step, Killed)
            try:
                durable.publish(work, final, content="output")
            except Killed:
                pass
            else:
                break
        assert watch.left == 0
        if final.exists():  # whole, or plainly damaged
            try:
                durable.verify(final)
            except durable.Damaged:
                assert over_damaged
    else:
        pytest.fail("publishing never ended")
    assert step > 8
    durable.verify(final)


def test_a_kill_at_any_step_of_publishing_an_artifact_can_be_made_good(tmp_path: Path) -> None:
    plan = planned(tmp_path, only_data())
    job = plan.by_name["data-tales"]
    for step in range(200):
        store = ArtifactStore(tmp_path / f"store{step}")
        workdir = store.prepare(job, {}, {})
        for name in ("output", "record"):
            (workdir / name).mkdir()
            (workdir / name / "a.txt").write_text("text")
        with pytest.MonkeyPatch.context() as patch:
            Interrupted(patch, step, Killed)
            try:
                store.publish(job, {}, {}, {})
            except Killed:
                pass
            else:
                break
        if store.find(job) is None:
            assert store.has_output(job)
            store.publish(job, {}, {}, {})
        artifact = store.find(job)
        assert artifact and (artifact.output / "a.txt").exists() and (artifact.record / "a.txt").exists()
        store.verify(artifact)
    else:
        pytest.fail("publishing never ended")


def test_a_full_disk_leaves_the_newest_checkpoint_as_it_is(tmp_path: Path) -> None:
    durable.publish(begun(tmp_path), tmp_path / "checkpoint-1")
    for step in range(9):
        work = begun(tmp_path / f"next{step}")
        with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="No space"):
            Interrupted(patch, step, lambda: OSError(errno.ENOSPC, "No space left on device"))
            durable.publish(work, tmp_path / "checkpoint-2")
        assert durable.newest(tmp_path) == (1, tmp_path / "checkpoint-1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"files": []}',
        '{"files": {}}',
        '{"files": {"../../x": {"bytes": 0, "sha256": ""}}}',
        "\x00\xff",
    ],
)
def test_a_manifest_of_rubbish_is_damage_and_no_crash(tmp_path: Path, text: str) -> None:
    plan = planned(tmp_path, only_data())
    store, job = ArtifactStore(tmp_path / "store"), plan.by_name["data-tales"]
    store.path(job).mkdir(parents=True)
    (store.path(job) / "manifest.json").write_text(text)
    assert store.state(job) == "damaged" and survey(plan, store)["data-tales"].artifact is None
    assert "manifest.json" in store.damage(job)


def test_a_lock_file_of_rubbish_still_refuses(tmp_path: Path) -> None:
    plan = planned(tmp_path, only_data())
    store, job = ArtifactStore(tmp_path / "store"), plan.by_name["data-tales"]
    with store.lock(job):
        store.lock_path(job).write_text(json.dumps([1]))
        with pytest.raises(Exception, match="another run"), store.lock(job):
            pass
