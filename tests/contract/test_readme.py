"""What the README says can be typed, opened and changed, held by what is there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import errors
from pipelines.cli import VERBS, _parser
from pipelines.recipe.load import find_problems
from pipelines.recipe.stages import STAGE_KINDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [(found[1], found[2]) for found in FENCED.finditer(README)]
CODE = [
    *(line for _, block in BLOCKS for line in block.splitlines()),
    *(span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", FENCED.sub("", README))),
]
"""Every line of a code block, and every code span outside of them."""
OPTION = re.compile(r"(?<!\S)--[a-z][\w-]*(?![\w>-])")


def rows(head: str) -> list[str]:
    """The rows of the table with this head, each as it stands."""
    return README.split(f"{head}\n")[1].split("\n\n")[0].splitlines()[1:]


def words(pattern: str) -> set[str]:
    """What a pattern's group finds in code, which is something."""
    found = {word for line in CODE for word in re.findall(pattern, line)}
    assert found
    return found


def test_every_make_target_is_one() -> None:
    stages = re.search(r"^STAGES +:= (.*)", MAKEFILE, re.MULTILINE)
    assert stages
    targets = {*re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE), *stages[1].split()}
    named = {name for list_ in words(r"\bmake +([a-z-]+(?: \| [a-z-]+)*)") for name in list_.split(" | ")}
    assert {"demo", "tokenizer", "evaluate", "clean", "check", "help"} <= named
    assert named - targets == set()


def test_every_variable_of_make_is_one() -> None:
    variables = set(re.findall(r"^([A-Z]+) +\?=", MAKEFILE, re.MULTILINE))
    assert words(r"\b([A-Z]{3,})=") - variables == set()


def commands() -> Iterator[str]:
    """What stands behind `sourdough` or `python -m pipelines`, or starts with the verb."""
    for line in CODE:
        command = re.search(r"(?:\bsourdough|-m pipelines) +(.*)", line)
        if command or re.match(r"[a-z]+ (?:RECIPE|--[a-z])", line):
            yield command[1] if command else line


def test_there_are_commands() -> None:
    assert len(list(commands())) >= 4


@pytest.mark.parametrize("command", dict.fromkeys(commands()))
def test_every_command_is_understood(command: str) -> None:
    given = shlex.split(command)
    if given[1:2] != [] and given[1].startswith("--") and given[0] not in ("clean", "schema", "verify"):
        given.insert(1, "RECIPE")  # left out where only the option matters
    try:
        _parser().parse_args(given)
    except SystemExit:
        pytest.fail(f"`{command}` is not understood")


def test_every_option_is_one_of_ours_or_of_the_tool_it_is_given_to(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (*VERBS, *STAGE_KINDS):
        with pytest.raises(SystemExit):
            _parser().parse_args([verb, "--help"])
    ours = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert words(f"({OPTION.pattern})")
    for line in CODE:
        script = re.search(r"\b(benchmarks/\w+\.py)", line)
        before = line.partition("-m pipelines")[0] if "accelerate launch" in line else ""
        for option in OPTION.findall(line.removeprefix(before)):
            known = re.findall(r"--[a-z][\w-]*", (ROOT / script[1]).read_text()) if script else ours
            assert option in known, line


def test_every_exit_code_is_the_one_of_its_failure() -> None:
    said = re.search(r"\*\*Exit codes\*\*: (.*?)\n\n", README, re.DOTALL)
    assert said
    failures = [value for value in vars(errors).values() if isinstance(value, type)]
    codes = {failure.exit_code for failure in failures if issubclass(failure, errors.PipelineError)}
    assert {int(code) for code in re.findall(r"\b(\d+) [a-z]", said[1])} == {0, *codes}


def test_every_path_of_the_picture_is_there() -> None:
    (picture,) = [block for _, block in BLOCKS if block.startswith("pipelines/\n")]
    named = []
    for line in picture.splitlines():
        above = ROOT / "pipelines" if line.startswith(" ") else ROOT
        head, *others = re.findall(r"[\w.]+/|\w+\.py\b|schema\.json", line)
        named += [above / head, *((above / head if head.endswith("/") else above) / other for other in others)]
    assert len(named) > 25
    assert [path for path in named if not path.exists()] == []
    folders = {path.name for path in (ROOT / "pipelines").iterdir() if (path / "__init__.py").exists()}
    assert folders == {path.name for path in named if path.parent.name == "pipelines" and path.is_dir()}


@pytest.mark.parametrize("row", rows("| to add | change |"))
def test_what_is_to_be_changed_is_there(row: str) -> None:
    spans = re.findall(r"`([^`]+)`", row)
    files: list[Path] = []
    for span in spans:
        if span.endswith(("/", ".py")):
            roots = (ROOT / "pipelines", ROOT, ROOT / "recipes", *(file.parent for file in files))
            files += [path for root in roots if (path := root / span).exists()][:1] or pytest.fail(
                f"{span} is not there"
            )
    assert files
    texts = [path.read_text() for path in files if path.is_file()]
    for name in (span for span in spans if span.isupper()):
        assert any(re.search(rf"^{name}\b.* = ", text, re.MULTILINE) for text in texts), name


def test_every_file_that_is_shipped_by_name_is_there() -> None:
    placeholders = {"recipes/x.yaml"}
    named = words(r"\b((?:recipes|benchmarks|pipelines|custom_models|tests)/[\w./-]+\w)") - placeholders
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_recipes_are_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipes = [block for kind, block in BLOCKS if kind == "yaml"]
    assert recipes
    for text in recipes:
        for pattern in re.findall(r"files: ([^\s,}]+)", text):
            path = Path(pattern.replace("*", "some"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("Anna baked bread for the smith.\n")
        Path("readme.yaml").write_text(text)
        assert find_problems(Path("readme.yaml")) == []


def test_the_recipe_of_the_readme_is_the_one_that_is_shipped() -> None:
    (shown,) = [block for _, block in BLOCKS if block.startswith("# recipes/mine.yaml\n")]
    shipped = (ROOT / "recipes" / "mine.yaml").read_text(encoding="utf-8")

    def lines(text: str) -> list[str]:
        return [line for line in text.splitlines() if line and not line.startswith(("#", "launch:"))]

    assert lines(shown) == lines(shipped)
