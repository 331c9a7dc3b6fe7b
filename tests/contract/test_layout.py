"""The structure that the README draws, held by the code."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = sorted([*(ROOT / "pipelines").rglob("*.py"), *(ROOT / "custom_models").rglob("*.py")])
RANK = {"errors": 0, "recipe": 1, "plan": 2, "store": 3, "run": 4, "report": 4, "cli": 5}
WORKER = {"data": 10, "training": 11, "evaluation": 12, "stages": 13}
EVERYWHERE = {"pipelines.stages.base"}  # what a job is given: read by training and evaluation too


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def imported(path: Path) -> set[str]:
    """Modules of `pipelines` that a file imports when it is loaded."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pipelines."):
            found.add(node.module)
    return found


def test_no_file_is_a_drawer() -> None:
    assert [path for path in CODE if re.fullmatch(r"(utils?|misc|common|helpers?)", path.stem)] == []


def test_files_and_functions_stay_short() -> None:
    assert {path.name: n for path in CODE if (n := len(path.read_text().splitlines())) > 400} == {}
    long = [(path.name, f.name) for path in CODE for f in functions(path) if f.end_lineno - f.lineno >= 50]
    assert long == []


def test_keyword_arguments_are_spelled_out() -> None:
    """Only transformers' protocols (models, callbacks) and reward functions take what they do not name."""
    allowed = {"rewards.py"}
    swallowing = [
        (path.name, function.name)
        for path in CODE
        for function in functions(path)
        if function.args.kwarg
        and not {"custom_models", "starts"} & {*path.parts}
        and path.name not in allowed
        and not function.name.startswith("on_")
    ]
    assert swallowing == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(path) for path in CODE if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_imports_point_down() -> None:
    wrong = []
    for path in (ROOT / "pipelines").rglob("*.py"):
        room = path.relative_to(ROOT / "pipelines").parts[0].removesuffix(".py")
        for module in imported(path):
            if module in EVERYWHERE:
                continue
            other = module.split(".")[1]
            for ranks in (RANK, WORKER):
                if room in ranks and other in ranks and ranks[other] > ranks[room]:
                    wrong.append((str(path.relative_to(ROOT)), module))
    assert wrong == []


def test_custom_models_import_nothing_of_pipelines() -> None:
    """They travel with the weights, into processes that do not have this package."""
    assert [path for path in (ROOT / "custom_models").rglob("*.py") if "pipelines" in path.read_text()] == []


UNSAFE = re.compile(
    r"\b(?:import|from) (?:pickle|dill|joblib|marshal|shelve)\b|torch\.load\(|weights_only=False|shell=True"
    r"|allow_pickle=True|yaml\.load\(|trust_remote_code=True|(?<!\.)\b(?:eval|exec)\("
)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "model.eval(); torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(line, shell=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "value = eval(text)",
    ],
)
def test_what_is_unsafe_is_seen(line: str) -> None:
    assert UNSAFE.search(line) and not UNSAFE.search("model.eval()")


def test_nothing_unsafe_is_in_the_code() -> None:
    found = []
    for path in [*CODE, *sorted((ROOT / "benchmarks").rglob("*.py"))]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = re.sub(r"`[^`]*`", "", line)  # docstrings may name what they forbid
            if UNSAFE.search(code) and not code.lstrip().startswith("#"):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []


@pytest.mark.parametrize("verb", ["check", "plan", "show"])
def test_looking_imports_no_torch(verb: str, tmp_path: Path) -> None:
    arguments = [verb, "recipes/demo.yaml", "--json", *(["--store", str(tmp_path)] if verb == "plan" else [])]
    script = (
        "import sys; from pipelines.cli import main\n"
        f"try: code = main({arguments!r})\n"
        "except SystemExit as stop: code = stop.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'accelerate', 'trl', 'numpy', 'pandas'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr); sys.exit(1 if heavy or code else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
