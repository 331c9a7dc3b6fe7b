"""What a person reads while a job runs."""

import json
from pathlib import Path

import pytest

from pipelines.run import console
from pipelines.run.console import Console, duration, progress, summary

LINE = {
    "step": 412,
    "max_steps": 1000,
    "loss": 1.8321,
    "learning_rate": 4.1e-5,
    "grad_norm": 0.712,
    "tokens_per_second": 8123.4,
    "seconds": 50.5,
}


def test_a_line_says_step_loss_rate_norm_speed_and_time_left() -> None:
    assert progress(LINE) == "412/1000  loss 1.832  lr 4.1e-05  |g| 0.71  8.1k tok/s  1:12 left"
    assert progress({"step": 3}) == "3" and progress({}) == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (12.3, "12 s"), (187, "3:07"), (7387, "2:03:07"), (59.9, "60 s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_summary_shows_a_few_numbers() -> None:
    assert summary({"rows": 12000, "loss": 1.23456, "name": "x"}) == "rows 12,000  loss 1.235"


def test_without_a_terminal_one_plain_line_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.0)
    (tmp_path / "log.txt").write_text("of an earlier attempt\nnote: old news\n")
    follower = Console().follow("sft", tmp_path, live=True)
    (tmp_path / "metrics.jsonl").write_text(json.dumps(LINE) + "\n" + '{"step": 413, "lo')
    with (tmp_path / "log.txt").open("a") as log:
        log.write("chatter of libraries\nnote: resumed at step 400\n")
    follower.tick()
    assert capsys.readouterr().err.splitlines() == ["  sft: resumed at step 400", f"  sft {progress(LINE)}"]
    follower.tick()
    assert capsys.readouterr().err == "", "the same step again is no news"
    monkeypatch.setattr(console, "IDLE_SECONDS", 0.0)
    follower.tick()
    assert "so far" in capsys.readouterr().err, "that it still runs is said now and then"
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    follower.tick()
    assert "sft 1/1000" in capsys.readouterr().err, "a resumed job shortens the file"
    follower.end()


def test_work_in_parts_says_which_and_how_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.0)
    follower = Console().follow("data-web", tmp_path, live=False)
    told = {"pass": "rows", "step": 3, "max_steps": 149, "seconds_left": 100.2}
    (tmp_path / "progress.jsonl").write_text(json.dumps(told) + "\n")
    follower.tick()
    assert capsys.readouterr().err == "  data-web rows  3/149  1:40 left\n"


def test_a_quiet_console_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = Console(quiet=True)
    quiet.cached("sft")
    follower = quiet.follow("sft", tmp_path, live=True)
    follower.tick()
    follower.end()
    assert capsys.readouterr().err == ""


def test_a_live_line_is_drawn_and_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(console, "_LIVE_SECONDS", 0.0)
    monkeypatch.setenv("NO_COLOR", "1")
    one = Console()
    assert one.live and not one.colour
    follower = one.follow("sft", tmp_path, live=True)
    (tmp_path / "metrics.jsonl").write_text(json.dumps(LINE) + "\n")
    follower.tick()
    follower.end()
