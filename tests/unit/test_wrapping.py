"""Filter `unwrap`: paragraphs that were cut to fit a page come back whole, and what only looks like them stays."""

import random
import textwrap

import pytest
from pydantic import TypeAdapter

from pipelines.cleaning.quality import Quality
from pipelines.cleaning.wrapping import unwrapped
from pipelines.recipe.quality import QualityField

WORDS = "the river was cold and grey that day when we came down from the hill with our dogs behind us"


def paragraphs(count: int, seed: int = 0) -> list[str]:
    """Of ten sentences each."""
    draw = random.Random(seed)
    sentences = (" ".join(draw.choices(WORDS.split(), k=12)).capitalize() + "." for _ in range(10 * count))
    return [" ".join(next(sentences) for _ in range(10)) for _ in range(count)]


@pytest.mark.parametrize("gap", ["\n", "\n\n"])
@pytest.mark.parametrize("width", [55, 70, 80])
def test_wrapped_paragraphs_come_back_whole(width: int, gap: str) -> None:
    whole = paragraphs(6)
    found = unwrapped(gap.join(textwrap.fill(text, width) for text in whole))
    expected = gap.join(whole)
    # Where no empty line parts them, a paragraph whose last line is full by chance goes on into the next.
    assert found == expected or (gap == "\n" and found.count("\n") >= 4 and found.split() == expected.split())


def test_the_filters_of_web_keep_wrapped_text() -> None:
    whole = "\n\n".join(paragraphs(6))
    wrapped = "\n\n".join(textwrap.fill(text, 70) for text in paragraphs(6))
    judge = Quality(TypeAdapter(QualityField).validate_python(["unwrap", "lines"]))
    assert [verdict.text for verdict in judge([wrapped, whole])] == [whole, whole]
    (without,) = Quality(TypeAdapter(QualityField).validate_python("lines"))([wrapped])
    assert len(without.text) < 0.3 * len(whole)


def test_a_hyphen_stays_with_its_word() -> None:
    text = "\n".join(["a word that is so long that it had to be broken in its very middle-"] * 8 + ["end."])
    assert unwrapped(text).startswith("a word") and "middle-a word" in unwrapped(text)
    dashes = text.replace("middle-", "middle -")
    assert "middle - a word" in unwrapped(dashes)


VERSE = """The wind came over from the sea
And told us of the rain,
And no one of our company
Would go to sea again.
We sat around the fire all day
And mended what we had,
Till one of us got up to say
That nothing was so bad."""
DIALOGUE = "\n".join(
    f'"{text}"' for text in ("Yes.", "You never said that you had been there before, and why should I trust you?") * 8
)
MENU = "\n".join(["Home", "About us", "Contact", "Books for children", "Books for nobody", "Log in", "Basket"] * 3)


@pytest.mark.parametrize("text", [VERSE, DIALOGUE, MENU, "\n".join(paragraphs(8)), "", "one line", "\n" * 9])
def test_what_is_not_wrapped_stays_as_it_is(text: str) -> None:
    assert unwrapped(text) == text


def test_a_menu_before_wrapped_text_is_not_joined_with_it() -> None:
    body = textwrap.fill(paragraphs(1)[0], 70)
    found = unwrapped(f"Home\nBooks\n\n{body}\n{body}")
    assert found.startswith("Home\nBooks\n\n")
    assert found.count("\n") <= 4
