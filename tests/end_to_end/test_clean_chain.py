"""Two datasets that share rows, deduplicated, from a recipe to the report, as a user starts them."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

RECIPE = """\
name: small
data:
  books: {files: books.txt, separator: line, holdout: 0.1, deduplicate: {spans: 50}}
  web: {files: web.txt, separator: line, holdout: 0, deduplicate: {spans: 50}}
stages:
  tokenizer: {vocab_size: 300, data: [books, web]}
"""


def tale(number: int, words: int = 120) -> str:
    draw = random.Random(number)
    return " ".join(f"{draw.choice(['mill', 'well', 'smith'])}{draw.randrange(5000)}" for _ in range(words))


def run(folder: Path, *more: str) -> str:
    command = [sys.executable, "-m", "pipelines", "run", "small.yaml", "--store", "artifacts", *more]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stderr


def test_what_is_removed_and_cut_is_told_and_a_second_run_makes_nothing(tmp_path: Path) -> None:
    books = [tale(number) for number in range(40)]
    near = [f"{text} and they went home" for text in books[:8]]
    cut = [f"{tale(100 + number, 60)} {' '.join(books[number].split()[10:80])}" for number in range(10)]
    web = [*(text.upper() for text in books[20:40]), *near, *cut, *(tale(number) for number in range(200, 210))]
    (tmp_path / "books.txt").write_text("\n".join(books))
    (tmp_path / "web.txt").write_text("\n".join(web))
    (tmp_path / "small.yaml").write_text(RECIPE)
    told = run(tmp_path)
    assert "  clean-web: 58.3% of 48 training rows are removed" in told and "clean-books: " not in told
    report = json.loads((tmp_path / "runs/small/report.json").read_text())
    facts = next(data for data in report["data"] if data["name"] == "web")
    removed = facts["dropped_by_reason"]
    assert sum(count for reason, count in removed.items() if reason.startswith("duplicate of ")) == 20
    assert sum(count for reason, count in removed.items() if reason.startswith("near_duplicate of ")) == 8
    assert facts["rows_used"] == facts["train"] == 20 and facts["changed"] == 10
    assert "near_duplicate of books" in (tmp_path / "runs/small/report.html").read_text()
    again = run(tmp_path)
    assert "cached" in again and "✓" not in again
