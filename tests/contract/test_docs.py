"""What docs/ says can be found: files, make targets, names of the code, lines to change."""

import re
from pathlib import Path

import pytest
from pages import DOCS, ROOT, SPAN, Block, blocks, edited

PAGES = sorted(path.name for path in DOCS.glob("*.md"))
WORKED = ("blocks.md", "styles.md", "objectives.md")
SOURCES = "\n".join(
    path.read_text(encoding="utf-8")
    for folder in ("pipelines", "custom_models", "tests")
    for path in (ROOT / folder).rglob("*.py")
)
OWN = ("thing", "try", "bloom", "other", "shift")
"""Words of names that the pages make up."""


def spans(page: str) -> list[str]:
    return SPAN.findall(re.sub(r"^```.*?^```", "", (DOCS / page).read_text(encoding="utf-8"), flags=re.M | re.S))


def is_made_up(name: str) -> bool:
    return any(word in name.lower() for word in OWN)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", (DOCS / page).read_text(encoding="utf-8"))
    assert all((DOCS / link).exists() for link in links), links


@pytest.mark.parametrize("page", PAGES)
def test_every_file_is_there(page: str) -> None:
    files = [name for name in spans(page) if re.fullmatch(r"[\w/.-]+\.(py|yaml|json|txt)", name)]
    for name in [name for name in files if not is_made_up(name)]:
        found = (ROOT / name).exists() or list((ROOT / "custom_models").glob(name))
        assert found, name


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_is_one(page: str) -> None:
    targets = set(re.findall(r"\bmake ([a-z-]+)", (DOCS / page).read_text(encoding="utf-8")))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()


@pytest.mark.parametrize("page", WORKED)
def test_every_name_of_code_is_there(page: str) -> None:
    names = [name for name in spans(page) if re.fullmatch(r"_?[A-Za-z]+(_[A-Za-z]+)*", name) and len(name) > 3]
    text = SOURCES + (DOCS / page).read_text(encoding="utf-8").split("```", 1)[1]
    assert {name for name in names if not is_made_up(name) and not re.search(rf"\b{name}\b", text)} == set()


def diffs() -> list[tuple[str, Block]]:
    return [(page, block) for page in WORKED for block in blocks(page) if block.language == "diff"]


def test_the_pages_have_edits() -> None:
    assert len(diffs()) > 15 and {page for page, _ in diffs()} == set(WORKED)


@pytest.mark.parametrize(("page", "block"), diffs())
def test_what_is_to_be_changed_stands_in_the_file_once(page: str, block: Block) -> None:
    assert block.file is not None
    assert edited((ROOT / block.file).read_text(encoding="utf-8"), block.text)


def test_the_worked_example_of_an_own_model_fits_what_new_model_writes() -> None:
    (block,) = [block for block in blocks("own-transformer.md") if block.language == "diff"]
    start = Path("pipelines/starts/thing.py")
    assert block.file == "my_models/thing.py"
    assert edited((ROOT / start).read_text(encoding="utf-8"), block.text)


def test_an_edit_that_does_not_fit_is_noticed() -> None:
    with pytest.raises(ValueError, match="0 times"):
        edited("a\nb\n", " a\n-c\n+d\n")
    with pytest.raises(ValueError, match="2 times"):
        edited("a\na\n", " a\n+d\n")
    assert edited("a\nb\nc\n", " a\n-b\n+d\n+e\n") == "a\nd\ne\nc\n"
