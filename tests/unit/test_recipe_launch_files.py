"""Launch files, templates, data files and locks: what lies beside a recipe."""

from pathlib import Path

import pytest

from pipelines.errors import DataError, MachineError
from pipelines.recipe.accelerate_files import read_accelerate
from pipelines.recipe.load import find_problems, load_recipe
from pipelines.recipe.lock import lock_path, read_lock, write_lock

RECIPE = """\
name: x
data: {text: {builtin: microworld/text}}
model: {hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4}
stages:
  tokenizer: {vocab_size: 512, data: text}
  pretrain: {data: text, duration: 9 steps, global_batch_size: 12, learning_rate: 1e-3, mixed_precision: bf16}
launch: here
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("accelerate").mkdir()
    Path("r.yaml").write_text(RECIPE)
    launch("num_processes: 2\n")
    return Path("r.yaml")


def launch(text: str) -> None:
    Path("accelerate/here.yaml").write_text(text)


def problems(recipe: Path) -> list[str]:
    return [str(problem) for problem in find_problems(recipe)]


def test_the_shipped_files_are_read(recipe: Path) -> None:
    cpu, two, gpu, eight = (read_accelerate(name, recipe) for name in ("cpu", "cpu-2", "gpu-1", "gpu-8"))
    assert (cpu.num_processes, cpu.device) == (1, "cpu")
    assert (two.num_processes, two.device) == (2, "cpu")
    assert (gpu.num_processes, gpu.device) == (1, "gpu")
    assert (eight.num_processes, eight.device, eight.num_machines) == (8, "gpu", 1)


def test_a_file_beside_the_recipe_comes_first(recipe: Path) -> None:
    Path("accelerate/cpu.yaml").write_text("num_processes: 5\nuse_cpu: yes\nmixed_precision: no\n")
    found = read_accelerate("cpu", recipe)
    assert (found.num_processes, found.device, found.mixed_precision) == (5, "cpu", "no")
    assert found.path.parent == Path("accelerate").resolve()


def test_a_file_that_is_not_there_is_named_with_those_that_are(recipe: Path) -> None:
    with pytest.raises(MachineError, match=r"no launch file 'heer'; there are .*here.*; did you mean 'here'\?"):
        read_accelerate("heer", recipe)


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "fsdp"])
def test_sharded_weights_are_refused_with_the_line(recipe: Path, kind: str) -> None:
    launch(f"num_processes: 2\ndistributed_type: {kind}\n")
    with pytest.raises(MachineError, match=rf"here.yaml:2: distributed_type {kind} .*use MULTI_GPU"):
        read_accelerate("here", recipe)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file is empty; a launch file has what `accelerate config` writes: use_cpu, ..."),
        ("- 1\n", "a launch file is a mapping of fields, and this is a list"),
        ("num_processes: many\n", "num_processes must be a whole number of at least 1, not 'many'"),
        ("num_processes: 0\n", "num_processes must be a whole number of at least 1, not 0"),
        ("use_cpu: maybe\n", "use_cpu must be true or false, not 'maybe'"),
        ("mixed_precision: [bf16]\n", "mixed_precision must be no, bf16, fp16 or fp8, not a list"),
        ("a: [", "a value is missing here, or a { or [ is not closed"),
        ("a: *b\n", "aliases (*name) are not used in recipes; write the value out, text in quotes"),
    ],
)
def test_a_broken_file_is_a_fault_of_the_recipe(recipe: Path, text: str, told: str) -> None:
    launch(text)
    (line,) = problems(recipe)
    assert line.startswith("r.yaml:7:9: launch: launch file ")
    assert "accelerate/here.yaml" in line and line.endswith(f": {told}")


def test_precision_is_the_stages(recipe: Path) -> None:
    assert problems(recipe) == []
    launch("num_processes: 2\nmixed_precision: bf16\n")
    assert problems(recipe) == []
    launch("num_processes: 2\nmixed_precision: 'no'\n")
    (line,) = problems(recipe)
    assert line.startswith("r.yaml:6:106: stages.pretrain.mixed_precision: computes in bf16, but ")
    assert line.endswith("says mixed_precision: no; precision is the stage's: remove the line there")
    recipe.write_text(RECIPE.replace("launch: here", "  more: {like: pretrain, model: pretrain}\nlaunch: here"))
    (line,) = problems(recipe)
    assert line.startswith("r.yaml:8:9: launch: ")
    assert "says mixed_precision: no, not that of pretrain (bf16), more (bf16); precision" in line
    own = "launch: {stages: {pretrain: here, more: here}}"
    recipe.write_text(RECIPE.replace("launch: here", f"  more: {{like: pretrain, model: pretrain}}\n{own}"))
    (line,) = problems(recipe)
    assert line.startswith("r.yaml:8:29: launch.stages.pretrain: ")


def test_batches_divide_over_processes_and_micro_batches(recipe: Path) -> None:
    launch("num_processes: 5\n")
    assert problems(recipe) == [
        "r.yaml:6:64: stages.pretrain.global_batch_size: 12 is not a multiple of 5 processes (launch file here)"
    ]
    launch("num_processes: 3\n")
    assert [str(it) for it in find_problems(recipe, ["launch.micro_batch_size=4"])] == []
    assert len(find_problems(recipe, ["launch.micro_batch_size=3"])) == 1
    assert find_problems(recipe, ["launch.micro_batch_size=3", "launch.stages.pretrain.micro_batch_size=2"]) == []


def test_data_files_and_templates_are_looked_for_from_the_recipe(recipe: Path) -> None:
    text = RECIPE.replace("builtin: microworld/text", "files: [mine/**/*.txt, 'odd[1].txt']")
    recipe.write_text(text.replace("data: text}\n", "data: text, chat_template: own.jinja}\n"))
    assert [line.split(": ")[1] for line in problems(recipe)] == [
        "data.text.files[0]",
        "data.text.files[1]",
        "stages.tokenizer.chat_template",
    ]
    Path("mine/deep").mkdir(parents=True)
    for name in ("mine/deep/a.txt", "odd[1].txt", "own.jinja"):
        Path(name).touch()
    assert problems(recipe) == []
    assert load_recipe(recipe).recipe.data["text"].files == ("mine/**/*.txt", "odd[1].txt")


@pytest.mark.parametrize(
    ("file", "pattern", "told"),
    [
        ("mine/a.txt", "mine", "'mine' is a folder; name the files in it, for example mine/*.txt"),
        ("mine/a.txt", "mine/", "'mine/' is a folder; name the files in it, for example mine/*.txt"),
        (
            "a.doc",
            "*.doc",
            "'a.doc' is of no kind that is read; those are .arrow, .csv, .htm, .html, .json, .jsonl, .md, ",
        ),
        ("a.gz", "a.gz", "'a.gz' is of no kind that is read; "),
        ("a\udcff.txt", "*.txt", "a\\udcff.txt' is not UTF-8; rename it"),
        ("a.txt", "a" * 300, f"no file matches '{'a' * 300}' (looked from ./)"),
    ],
)
def test_data_files_that_cannot_be_read_are_told_at_once(recipe: Path, file: str, pattern: str, told: str) -> None:
    recipe.write_text(RECIPE.replace("builtin: microworld/text", f"files: '{pattern}'"))
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).touch()
    (line,) = problems(recipe)
    assert line.startswith("r.yaml:2:22: data.text.files: ") and told in line


def test_files_of_the_holdout_and_without_a_header_are_looked_at_too(recipe: Path) -> None:
    fields = "files: [a.tsv, b.jsonl], column_names: [text], holdout_files: [nowhere.txt, c.doc]"
    recipe.write_text(RECIPE.replace("builtin: microworld/text", fields))
    for name in ("a.tsv", "b.jsonl", "c.doc"):
        Path(name).touch()
    told = [line.partition(": data.text.")[2] for line in problems(recipe)]
    assert sorted(line.partition(":")[0] for line in told) == ["column_names", "holdout_files[0]", "holdout_files[1]"]
    assert "column_names: belongs to .csv and .tsv files, and 'b.jsonl' is none" in told
    assert any("no file matches 'nowhere.txt'" in line for line in told)


@pytest.mark.parametrize("name", ["a.txt", "b.JSONL", "c.csv.gz", "d.tsv.zst", "e.parquet", "f.Json.GZ"])
def test_every_kind_of_file_is_taken(recipe: Path, name: str) -> None:
    recipe.write_text(RECIPE.replace("builtin: microworld/text", f"files: {name}"))
    Path(name).touch()
    assert problems(recipe) == []


def test_a_lock_is_read_as_it_was_written(recipe: Path) -> None:
    assert read_lock(recipe) == {}
    pinned = {"roneneldan/TinyStories": {"revision": "0" * 40}}
    assert write_lock(recipe, pinned) == lock_path(recipe) == Path("r.lock")
    assert read_lock(recipe) == pinned
    assert [path.name for path in Path().iterdir() if "tmp" in path.name] == []


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "{", '{"a/b": {}}', '{"a/b": {"revision": "main"}}', None])
def test_a_broken_lock_says_what_to_do(recipe: Path, text: str | None) -> None:
    if text is None:
        lock_path(recipe).mkdir()
    else:
        lock_path(recipe).write_text(text)
    with pytest.raises(DataError, match="make data"):
        read_lock(recipe)
