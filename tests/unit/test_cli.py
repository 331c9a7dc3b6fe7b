"""The verbs as a person or a machine types them."""

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import chain, only_data, write

from pipelines.cli import main


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links and the default store lie below the current folder."""
    monkeypatch.chdir(tmp_path)


def as_json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_check_of_a_good_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path, chain()))
    assert main(["check", path]) == 0
    assert capsys.readouterr().out == f"{path}: no problems\n"
    assert main(["check", path, "--json"]) == 0
    assert as_json(capsys) == {"problems": []}


def test_check_of_a_bad_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = chain()
    recipe["stages"]["dpo"]["beat"] = 1
    path = str(write(tmp_path, recipe))
    assert main(["check", path]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and "stages.dpo.beat" in shown.err and shown.err.endswith("nothing was run.\n")
    assert main(["check", path, "--json"]) == 2
    (problem,) = as_json(capsys)["problems"]
    assert set(problem) == {"file", "line", "column", "path", "message"} and problem["path"] == "stages.dpo.beat"


@pytest.mark.parametrize("verb", ["plan", "run", "show", "data", "report", "verify", "pretrain"])
def test_a_bad_recipe_ends_every_verb_with_2(tmp_path: Path, verb: str) -> None:
    assert main([verb, str(write(tmp_path, chain() | {"sed": 1}))]) == 2
    assert not (tmp_path / "artifacts").exists()


def test_plan_lists_every_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path, chain()))
    assert main(["plan", path]) == 0
    shown = capsys.readouterr().out
    assert "  + pretrain " in shown and "Plan: 0 cached, 19 to run." in shown
    assert main(["plan", path, "--json"]) == 0
    jobs = {job["name"]: job for job in as_json(capsys)["jobs"]}
    assert jobs["sft"]["kind"] == "sft" and jobs["sft"]["state"] == "new" and jobs["sft"]["reason"] == ""
    assert jobs["pretrain"]["estimate"]["parameters"] > 300 * 16
    assert jobs["pretrain"]["estimate"]["tokens"] == 4 * 8 * 128
    assert jobs["tokenizer"]["estimate"]["core_seconds"] > 0 and "estimate" not in jobs["evaluate-sft"]


def test_data_then_plan_then_a_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path, only_data()))
    assert main(["data", path]) == 0
    assert main(["data", path, "--json"]) == 0 and capsys.readouterr().out == ""
    assert main(["plan", path, "--json"]) == 0
    assert {job["name"]: job["state"] for job in as_json(capsys)["jobs"]}["data-tales"] == "cached"
    assert main(["plan", path, "--set", "data.tales.holdout=0.2"]) == 0
    shown = capsys.readouterr().out
    assert "~ data-tales" in shown and "data.tales.holdout 0.1 → 0.2 (--set)" in shown


def test_verify_names_a_flipped_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path, only_data()))
    main(["data", path, "--json"])
    assert main(["verify", path]) == 0 == main(["verify"])
    (info,) = tmp_path.glob("artifacts/data-*/output/info.json")
    info.write_bytes(info.read_bytes()[:-1] + b"X")
    capsys.readouterr()
    assert main(["verify", path]) == 3
    assert str(info) in capsys.readouterr().err
    assert main(["verify", "--json"]) == 3
    assert list(as_json(capsys)["damaged"]) == [info.parents[1].name]


@pytest.mark.parametrize("store", ["nowhere", "tiny.yaml"])
@pytest.mark.parametrize("verb", [["verify"], ["verify", "tiny.yaml"], ["report", "tiny.yaml"]])
def test_a_store_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: list[str], store: str
) -> None:
    write(tmp_path, only_data())
    before = sorted(tmp_path.iterdir())
    assert main([*verb, "--store", store]) == 3
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.splitlines()) == 1
    assert shown.err.startswith(f"{tmp_path / store}: there is no store of finished work here; run a recipe first, or")
    assert sorted(tmp_path.iterdir()) == before, "neither the store nor a report comes of a misspelt path"


@pytest.mark.parametrize("store", ["nowhere", "a_file"])
def test_cleaning_a_store_that_is_not_there_says_so_and_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], store: str
) -> None:
    (tmp_path / "a_file").write_text("")
    assert main(["clean", "--store", store, "--yes"]) == 0
    assert capsys.readouterr().out == f"nothing to remove: there is no folder {tmp_path / store}\n"
    assert (tmp_path / "a_file").exists() and not (tmp_path / "nowhere").exists()


def test_clean_removes_what_no_run_uses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", str(write(tmp_path, only_data())), "--json"])
    changed = only_data()
    changed["data"]["tales"]["holdout"] = 0.2
    main(["data", str(write(tmp_path, changed)), "--json"])
    assert len(list(tmp_path.glob("artifacts/data-*"))) == 2
    assert main(["clean"]) == 0, "without a terminal it only says what it would remove"
    assert len(list(tmp_path.glob("artifacts/data-*"))) == 2
    assert main(["clean", "--yes"]) == 0
    assert [path.resolve() for path in tmp_path.glob("artifacts/data-*")] == [Path("runs/tiny/data-tales").resolve()]
    assert main(["clean", "--yes"]) == 0 and capsys.readouterr().out.endswith("nothing to remove\n")


def test_a_folder_that_is_no_store_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody's home named as the store by mistake: nothing in it is ours."""
    ours = tmp_path / "data-0123456789abcdef"
    for folder in (tmp_path / "letters", tmp_path / "data-of-mine", tmp_path / ".partial" / "letters", ours):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    assert main(["verify", "--store", "letters"]) == 3
    assert "there is no store of finished work here" in capsys.readouterr().err
    assert main(["verify", "--store", "."]) == 3
    assert "1 artifacts read, 1 damaged" in capsys.readouterr().out
    assert main(["clean", "--store", ".", "--yes"]) == 0
    assert not ours.exists()
    assert sorted(path.name for path in tmp_path.rglob("manifest.json")) == ["manifest.json"] * 3


@pytest.mark.parametrize(("answer", "left"), [("", 1), ("\n", 1), ("n\n", 1), ("yes\n", 0), ("Y\n", 0)])
def test_clean_asks_a_person(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    (tmp_path / "artifacts" / "data-0123456789abcdef").mkdir(parents=True)
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert main(["clean"]) == 0, "an answer that ends before it begins is none"
    assert "remove these 1 folders? [y/N] " in capsys.readouterr().out
    assert len(list(tmp_path.glob("artifacts/data-*"))) == left


@pytest.mark.parametrize(
    "given", [["--stage", ""], ["--store", ""], ["--store", "s" * 300], ["--set", "name=" + "n" * 70]]
)
def test_a_value_that_cannot_be_is_one_line_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str]
) -> None:
    path = str(write(tmp_path, only_data()))
    try:
        code = main(["run", path, *given])
    except SystemExit as stopped:  # as argparse ends
        code = int(stopped.code or 0)
    assert code in (2, 4)
    shown = capsys.readouterr()
    assert shown.out == "" and "Traceback" not in shown.err and shown.err
    assert not list(tmp_path.rglob("data-*"))


def test_a_run_with_nothing_to_do_still_answers_a_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path, only_data()))
    answers = []
    for _ in range(2):
        assert main(["run", path, "--json"]) == 0
        answers.append(as_json(capsys))
    assert answers[0] == answers[1] and answers[0]["name"] == "tiny"


def test_the_command_line_wins_over_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = chain()
    recipe["stages"]["dpo"]["beta"] = 0.5
    path = str(write(tmp_path, recipe))
    plans = []
    for overrides in ([], ["--set", "stages.dpo.beta=0.1"]):
        main(["plan", path, "--json", *overrides])
        plans.append({job["name"]: job["fingerprint"] for job in as_json(capsys)["jobs"]})
    main(["plan", str(write(tmp_path, chain())), "--json"])
    plain = {job["name"]: job["fingerprint"] for job in as_json(capsys)["jobs"]}
    assert plans[0]["dpo"] != plain["dpo"] and plans[1] == plain


def test_an_unknown_stage_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(write(tmp_path, chain())), "--stage", "dop"]) == 2
    assert "there is no stage 'dop'; did you mean 'dpo'?" in capsys.readouterr().err


def test_an_unknown_launch_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(write(tmp_path, chain())), "--launch", "cpo", "--stage", "pretrain"]) == 2
    assert "did you mean 'cpu" in capsys.readouterr().err


def test_a_launch_file_of_the_command_line_is_checked_and_wins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = chain()
    recipe["launch"] = {"config": "cpu", "stages": {"sft": "cpu", "dpo": {"checkpoint_every": 3}}}
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "cpu-3.yaml").write_text("use_cpu: true\nnum_processes: 3\n")
    path = str(write(tmp_path, recipe))
    assert main(["show", path, "--launch", "cpu-2"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("cpu-2 ") == 2 and shown.count("# --launch") == 2
    for verb in ("check", "plan", "run", "pretrain"):
        assert main([verb, path, "--launch", "cpu-3"]) == 2
        assert "stages.sft.global_batch_size: 8 is not a multiple of 3 processes (launch file cpu-3)" in (
            capsys.readouterr().err
        )
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize("store", ["tiny.yaml", "tiny.yaml/below", "/proc/no/store"])
def test_a_store_that_cannot_be_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], store: str) -> None:
    assert main(["data", str(write(tmp_path, only_data())), "--store", store]) == 4
    assert "finished work cannot be kept here" in capsys.readouterr().err


def test_a_file_where_links_belong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").write_text("")
    assert main(["data", str(write(tmp_path, only_data()))]) == 4
    assert "runs/tiny: Not a directory" in capsys.readouterr().err


def test_a_full_disk_in_the_driver_is_no_bug(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*anything: object) -> None:
        raise OSError(28, "No space left on device", "runs/x")

    monkeypatch.setattr("pipelines.store.artifacts.Links.point", full)
    assert main(["data", str(write(tmp_path, only_data()))]) == 4
    assert "no space left on the disk while writing runs/x" in capsys.readouterr().err


def test_a_run_with_everything_cached_imports_no_torch(tmp_path: Path) -> None:
    path = str(write(tmp_path, only_data()))
    main(["data", path, "--json"])
    script = (
        "import sys; from pipelines.cli import main; code = main(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'pyarrow', 'matplotlib', 'rich'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr); sys.exit(bool(heavy or code))"
    )
    ended = subprocess.run([sys.executable, "-c", script, "data", path], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("stage", ["€", "\udcff"])
def test_an_output_that_knows_few_characters_is_no_error(tmp_path: Path, stage: str) -> None:
    path = str(write(tmp_path, only_data()))
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for arguments, code in ((["plan", path], 0), (["run", path, "--stage", stage], 2)):
        command = [sys.executable, "-m", "pipelines", *map(os.fsencode, arguments)]
        ended = subprocess.run(command, cwd=tmp_path, env=ascii_only, capture_output=True, text=True)
        assert (ended.returncode, "Traceback" in ended.stderr) == (code, False), ended.stderr


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    path = str(write(tmp_path, chain()))
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "pipelines", "plan", path]
    ended = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert "Traceback" not in ended.stderr
