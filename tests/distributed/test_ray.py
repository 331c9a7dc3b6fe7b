"""Shards on a Ray cluster of two nodes, with workers killed on the way: the bytes of one process."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from shard_jobs import build, made, make, parts, threads

from pipelines.data.shards import grouped
from pipelines.errors import DataError

pytest.importorskip("ray", reason="needs `make test-ray`, which installs it")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray
    from ray.cluster_utils import Cluster

    paths = os.pathsep.join(map(str, (TESTS.parent, TESTS)))
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_ADDRESS", "RAY_USAGE_STATS_ENABLED")}
    os.environ |= {"PYTHONPATH": paths, "RAY_USAGE_STATS_ENABLED": "0"}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = nodes.address
    yield
    ray.shutdown()
    nodes.shutdown()
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def test_parts_come_in_order_and_a_killed_worker_is_replaced(cluster: None, tmp_path: Path) -> None:
    folders = make(tmp_path, parts(tmp_path, 6, die_once=[2]), engine="ray")
    assert made(folders) == [0, 1, 4, 9, 16, 25]
    assert (tmp_path / "calls").read_text().split().count("2") == 2


def test_each_worker_has_one_thread(cluster: None, tmp_path: Path) -> None:
    (made,) = make(tmp_path, parts(tmp_path, 1), work=threads, engine="ray")
    assert (made / "threads").read_text() == "false"


def test_a_mistake_of_the_data_comes_through(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="part 1 is bad"):
        make(tmp_path, parts(tmp_path, 2, fail=[1]), engine="ray")


def test_data_and_tokens_are_those_of_one_process(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped, "__defaults__", (4_000,))
    wanted = build(tmp_path / "local", workers=1)
    killed: list[int] = []
    killer = threading.Thread(target=kill_one, args=(killed,), daemon=True)
    killer.start()
    found = build(tmp_path / "ray", engine="ray")
    killer.join(timeout=1)
    assert killed, "no worker was met at its work"
    # places of rows name their files, which lie in different folders
    assert {name for name in wanted if wanted[name] != found[name]} <= {"data-tales/info.json"}


def kill_one(killed: list[int]) -> None:
    """kill -9 of the first worker that is at its work."""
    until = time.monotonic() + 120
    while time.monotonic() < until and not killed:
        for process in psutil.process_iter(["name", "cmdline"]):
            if any("ray::_make" in part for part in process.info["cmdline"] or ()):
                process.send_signal(signal.SIGKILL)
                killed.append(process.pid)
                return
