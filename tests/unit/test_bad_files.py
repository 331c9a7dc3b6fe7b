"""Every kind of bad file has its stated outcome: nothing crashes, hangs or vanishes without a count."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bad_files import BAD_FILES, LARGEST_ROW, Bad
from bad_rows import BAD_ROWS
from data_jobs import TEMPLATES, run_data

from pipelines.data import blocks, inspection
from pipelines.data.formats import REASONS, said
from pipelines.data.rows import read_rows
from pipelines.data.showing import inspect
from pipelines.errors import DataError

CASES = BAD_FILES | BAD_ROWS


@pytest.fixture(autouse=True)
def _sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too long is so sooner, to spare minutes."""
    monkeypatch.setattr(blocks, "LARGEST_ROW", LARGEST_ROW)
    monkeypatch.setattr(inspection, "LARGEST_ROW", LARGEST_ROW)


def written(bad: Bad, folder: Path) -> list[Path]:
    paths = [folder / name for name in bad.files]
    for path, content in zip(paths, bad.files.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return paths


def test_there_are_enough_of_them() -> None:
    assert len(CASES) == len(BAD_FILES) + len(BAD_ROWS) >= 100


@pytest.mark.parametrize("name", CASES)
def test_a_bad_file_has_its_outcome(name: str, tmp_path: Path) -> None:
    bad = CASES[name]
    paths = written(bad, tmp_path / "data")
    fields: dict[str, Any] = {"holdout": 0.0, "max_dropped": 1.0} | dict(bad.fields)
    if bad.error:
        with pytest.raises(DataError) as error:
            run_data(tmp_path / "d", paths, **fields)
        first = str(error.value).split("\n")
        assert bad.error in str(error.value)
        assert len(first) == 1 or "rows cannot be used" in first[0], "one line, but for the list of reasons"
        return
    output, metrics = run_data(tmp_path / "d", paths, **fields)
    rows = [row for batch in read_rows(output, "train") for row in batch]
    texts = [said(fields.get("format", "text"), row) for row in rows]
    assert texts == [text if isinstance(text, list) else [text] for text in bad.used]
    info = json.loads((output / "info.json").read_text())
    assert info["dropped"] == bad.dropped and bad.dropped.keys() <= REASONS.keys()
    assert info.get("left_over", {}) == bad.left_over
    assert metrics["rows_in"] == len(rows) + sum(bad.dropped.values())
    kept = [
        json.loads(line)["reason"] for line in (tmp_path / "d" / "record" / "dropped.jsonl").read_text().splitlines()
    ]
    assert sorted(kept) == sorted(reason for reason, count in bad.dropped.items() for _ in range(count))


@pytest.mark.parametrize("name", CASES)
def test_looking_at_a_bad_file_ends_with_facts_or_one_line(name: str, tmp_path: Path) -> None:
    for path in written(CASES[name], tmp_path / "data"):
        try:
            text, facts = inspect(str(path), tmp_path, TEMPLATES / "chatml.jinja")
        except DataError as error:
            assert "\n" not in str(error).replace(str(path), "")
        else:
            assert facts["usable"] + sum(facts["dropped"].values()) > 0 and len(text) < 100_000
            json.dumps(facts)
            text.encode()


def test_what_is_no_file_is_told_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name in ("folder.jsonl", "link.jsonl", "pipe.jsonl"):
        with pytest.raises(DataError, match="no such file"):
            run_data(tmp_path / "d", [tmp_path / name])
        with pytest.raises(DataError, match="no file"):
            inspect(name, tmp_path, TEMPLATES / "chatml.jinja")


def test_what_bombs_unpack_to_is_never_in_memory_together(tmp_path: Path) -> None:
    """2 GB of zstd and 200 MB of gzip, below 250 MB."""
    code = """
import gzip, sys, zstandard
from pathlib import Path
from pipelines.data.files import read_file
folder = Path(sys.argv[1])
packer = zstandard.ZstdCompressor()
with (folder / "a.txt.zst").open("wb") as file, packer.stream_writer(file) as writer:
    for _ in range(2048):
        writer.write(bytes(1 << 20))
with gzip.open(folder / "b.txt.gz", "wb", 1) as file:
    for _ in range(200):
        file.write(bytes(1 << 20))
for name in ("a.txt.zst", "b.txt.gz"):
    assert [item.reason for item in read_file(folder / name)] == ["too_long"]
# Not getrusage: what it says may be of the process that started this one.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 250 << 10, f"{int(done.stdout) >> 10} MB"
