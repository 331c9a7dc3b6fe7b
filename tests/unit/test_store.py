"""The store: four states, one writer, and links."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_recipe import chain, planned

from pipelines.errors import ArtifactError
from pipelines.plan.jobs import Job, Plan
from pipelines.store.artifacts import Artifact, ArtifactStore, Links, survey
from pipelines.store.clean import remove, unused


def made(store: ArtifactStore, job: Job, plan: Plan, text: str = "rows") -> Artifact:
    """Publish a small artifact for a job, and for what it reads."""
    inputs = {}
    for role, source in plan.sources(job).items():
        inputs[role] = store.find(source) or made(store, source, plan)
    workdir = store.prepare(job, inputs, {})
    for name in ("output", "record", "checkpoints"):
        (workdir / name).mkdir(exist_ok=True)
        (workdir / name / "a.txt").write_text(text)
    return store.publish(job, inputs, {"rows": 3}, {"seconds": 1.0})


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return planned(tmp_path, chain())


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def test_a_job_is_absent_then_partial_then_complete(store: ArtifactStore, plan: Plan) -> None:
    job = plan.by_name["data-tales"]
    assert store.state(job) == "absent" and store.find(job) is None
    store.prepare(job, {}, {})
    assert store.state(job) == "partial"
    artifact = made(store, job, plan)
    assert store.state(job) == "complete" and artifact.metrics == {"rows": 3}
    assert (artifact.record / "a.txt").exists() and (artifact.output / "a.txt").exists()
    assert not store.workdir(job).exists(), "checkpoints go once the artifact is there"


def test_a_shortened_file_makes_an_artifact_damaged(store: ArtifactStore, plan: Plan) -> None:
    job = plan.by_name["data-tales"]
    artifact = made(store, job, plan)
    (artifact.output / "a.txt").write_text("r")
    assert store.state(job) == "damaged" and store.find(job) is None
    assert str(artifact.output / "a.txt") in store.damage(job)


def test_a_flipped_byte_is_found_by_verify(store: ArtifactStore, plan: Plan) -> None:
    artifact = made(store, plan.by_name["data-tales"], plan)
    store.verify(artifact)
    (artifact.output / "a.txt").write_text("rowz")
    with pytest.raises(ArtifactError, match=r"a\.txt.*delete"):
        store.verify(artifact)


def test_the_manifest_names_inputs_with_the_digest_of_their_bytes(store: ArtifactStore, plan: Plan) -> None:
    artifact = made(store, plan.by_name["tokens-chats"], plan)
    source = store.find(plan.by_name["data-chats"])
    assert source is not None
    assert artifact.inputs["dataset"] == {
        "job": "data-chats",
        "fingerprint": plan.by_name["data-chats"].fingerprint,
        "digest": source.digest,
    }


def test_an_artifact_made_from_other_bytes_is_not_used(store: ArtifactStore, plan: Plan) -> None:
    made(store, plan.by_name["tokens-chats"], plan)
    remove([store.path(plan.by_name["data-chats"])], store.root)
    assert survey(plan, store)["tokens-chats"].artifact is not None, "a missing input is no reason"
    made(store, plan.by_name["data-chats"], plan, text="other rows")
    found = survey(plan, store)["tokens-chats"]
    assert found.artifact is None and found.changed_input == "data-chats"


def test_a_job_without_output_is_not_published(store: ArtifactStore, plan: Plan) -> None:
    job = plan.by_name["data-tales"]
    store.prepare(job, {}, {})
    with pytest.raises(ArtifactError, match="without writing anything"):
        store.publish(job, {}, {}, {})


def test_a_lock_is_refused_with_its_holder(store: ArtifactStore, plan: Plan) -> None:
    job = plan.by_name["data-tales"]
    with store.lock(job):
        with pytest.raises(ArtifactError, match=rf"process {os.getpid()} on "), store.lock(job):
            pass
        with store.lock(plan.by_name["data-more"]):
            pass
    with store.lock(job):
        pass


def test_the_lock_is_held_until_the_last_process_that_inherited_it_ends(store: ArtifactStore, plan: Plan) -> None:
    job = plan.by_name["data-tales"]
    with store.lock(job) as descriptor:
        child = subprocess.Popen(["sleep", "60"], stdin=descriptor)
    try:
        with pytest.raises(ArtifactError, match="another run"), store.lock(job):
            pass
    finally:
        child.kill()
        child.wait()
    with store.lock(job):
        pass


def test_links_are_relative_and_replaced(store: ArtifactStore, plan: Plan, tmp_path: Path) -> None:
    links = Links(tmp_path / "runs" / "tiny")
    one, two = (made(store, plan.by_name[name], plan) for name in ("data-tales", "data-more"))
    assert links.point("data", one) and not links.point("data", one)
    assert links.point("data", two)
    link = tmp_path / "runs" / "tiny" / "data"
    assert not link.readlink().is_absolute() and link.resolve() == two.path
    assert links.manifest("data", store) == two.manifest and links.manifest("other", store) is None
    links.keep_only(set())
    assert not link.is_symlink()


def test_cleaning_spares_what_a_run_points_to(store: ArtifactStore, plan: Plan, tmp_path: Path) -> None:
    used, idle = (made(store, plan.by_name[name], plan) for name in ("data-tales", "data-more"))
    elsewhere = Links(tmp_path / "elsewhere" / "runs" / "tiny")
    elsewhere.point("data", used)
    store.register(elsewhere.folder.parent)
    begun, held = plan.by_name["data-chats"], plan.by_name["data-pairs"]
    store.prepare(begun, {}, {})
    store.prepare(held, {}, {})
    with store.lock(held):
        assert unused(store.root, tmp_path / "runs") == [store.workdir(begun), idle.path]


def test_cleaning_touches_nothing_outside_the_store(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    store.root.mkdir()
    (store.root / "link").symlink_to(tmp_path / "mine")
    for folder in (tmp_path / "mine", store.root / "link", store.root / ".." / "mine"):
        with pytest.raises(ValueError, match="is not a folder of"):
            remove([folder], store.root)
    assert (tmp_path / "mine").is_dir()


def test_runs_that_begin_at_once_are_all_remembered(store: ArtifactStore, tmp_path: Path) -> None:
    store.root.mkdir()
    code = "import sys; from pathlib import Path; from pipelines.store.artifacts import ArtifactStore\n"
    code += "store = ArtifactStore(Path(sys.argv[1])); sys.stdin.read()\n"
    code += "for number in range(20): store.register(Path(sys.argv[2]) / str(number))"
    folders = [tmp_path / "runs" / str(number) for number in range(4)]
    command = [sys.executable, "-c", code, str(store.root)]
    processes = [subprocess.Popen([*command, str(folder)], stdin=subprocess.PIPE) for folder in folders]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    assert store.run_folders() == {folder / str(number) for folder in folders for number in range(20)}


def test_cleaning_spares_the_base_of_an_adapter_that_is_used(store: ArtifactStore, plan: Plan, tmp_path: Path) -> None:
    base, idle = (made(store, plan.by_name[name], plan) for name in ("data-tales", "data-more"))
    facts = {"artifact": base.path.name, "fingerprint": plan.by_name["data-tales"].fingerprint, "digest": base.digest}
    job = plan.by_name["data-chats"]
    workdir = store.prepare(job, {}, {})
    (workdir / "output").mkdir()
    (workdir / "output" / "base.json").write_text(json.dumps(facts))
    adapter = store.publish(job, {}, {}, {"seconds": 1.0})
    links = Links(tmp_path / "runs" / "tiny")
    links.point("sft", adapter)
    assert unused(store.root, tmp_path / "runs") == [idle.path]
    links.keep_only(set())
    assert set(unused(store.root, tmp_path / "runs")) == {base.path, idle.path, adapter.path}
