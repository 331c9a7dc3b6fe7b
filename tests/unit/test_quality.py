"""Quality filters: measures against slow definitions, and what each filter keeps, changes and drops."""

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from pipelines.cleaning import kernels
from pipelines.cleaning.lines import BOILERPLATE
from pipelines.cleaning.quality import Quality, Verdict
from pipelines.recipe.quality import QualityField

PROSE = (
    "The children went down to the river with their boats, and they stayed there until it was dark. "
    "Nobody had told them that the water would be cold, so they have to walk home with wet feet. "
    "In the morning the old man at the mill asked what the noise had been, but no child would say a word."
)


def judged(quality: Any, *texts: str) -> list[Verdict]:
    return Quality(TypeAdapter(QualityField).validate_python(quality))(texts)


def reasons(quality: Any, *texts: str) -> list[str | None]:
    return [verdict.reason for verdict in judged(quality, *texts)]


def measured(names: tuple[str, ...], *texts: str) -> list[dict[str, float]]:
    out = np.zeros((len(texts), len(names)))
    data, starts = kernels.joined(texts)
    if names is kernels.SHAPE:
        kernels.shape(data, starts, kernels.KINDS, kernels.STOP_WORDS, out)
    else:
        kernels.repetition(data, starts, kernels.KINDS, out)
    return [dict(zip(names, row, strict=True)) for row in out.tolist()]


# --- measures -------------------------------------------------------------------------------------------------------


def slow_repetition(text: str) -> dict[str, float]:
    """From the definitions alone."""
    found: dict[str, float] = {}
    for name, split in (("line", "\n"), ("paragraph", "\n\n")):
        units = [unit for unit in (part.strip() for part in text.split(split)) if unit]
        again = [unit for number, unit in enumerate(units) if unit in units[:number]]
        found[f"duplicate_{name}s"] = len(again) / len(units) if units else 0.0
        total = sum(map(len, units))
        found[f"duplicate_{name}_characters"] = sum(map(len, again)) / total if units else 0.0
    words = text.split()
    total = sum(map(len, words))
    for size in range(2, 11):
        grams = [tuple(words[first : first + size]) for first in range(len(words) - size + 1)]
        counts = Counter(grams)
        often = max(counts.values(), default=0)
        most = max((sum(map(len, gram)) for gram in counts if counts[gram] == often), default=0) if often > 1 else 0
        repeated = {
            word for first, gram in enumerate(grams) if gram in grams[:first] for word in range(first, first + size)
        }
        name = f"top_{size}_gram" if size < 5 else f"duplicate_{size}_grams"
        share = often * most if size < 5 else sum(len(words[word]) for word in repeated)
        found[name] = share / total if total else 0.0
    return found


def test_repetition_is_what_its_definition_says() -> None:
    rng = random.Random(0)
    texts = ["", "one", "a b", *([PROSE, PROSE + "\n" + PROSE, PROSE + "\n\n" + PROSE])]
    for _ in range(200):
        words = rng.choices(("a", "bb", "ünder", "日本", "the", "x.", "\n", "\n\n"), k=rng.randrange(60))
        texts.append(" ".join(words))
    texts = [text.replace(" \n", "\n").replace("\n ", "\n") for text in texts]
    # Three line ends in a row are one end of a paragraph to the kernel, and one and a half to `split`.
    texts = [text for text in texts if "\n\n\n" not in text]
    for text, found in zip(texts, measured(kernels.REPETITION, *texts), strict=True):
        assert found == pytest.approx(slow_repetition(text)), text


def test_shape_is_what_its_definition_says() -> None:
    text = "The cat, the dog … and 12 mice!\n- a short line\n• another one...\nGrüße 日本語。\n   \nwho knows"
    (found,) = measured(kernels.SHAPE, text)
    words, lines = text.split(), [line.strip() for line in text.split("\n") if line.strip()]
    assert found["characters"] == len(text)
    assert found["words"] == len(words)
    assert found["mean_word_length"] == pytest.approx(sum(map(len, words)) / len(words))
    assert found["symbols_per_word"] == pytest.approx(2 / len(words))
    assert found["stop_words"] == 2  # the, and; "The" is the same word
    assert found["lines"] == len(lines) == 5
    assert found["bullet_lines"] == pytest.approx(2 / 5)
    assert found["ellipsis_lines"] == pytest.approx(1 / 5)
    assert found["whole_lines"] == pytest.approx(3 / 5)
    assert found["short_lines"] == pytest.approx(4 / 5)
    assert found["digits"] == pytest.approx(2 / len(text))
    assert found["spaces"] == pytest.approx(sum(map(str.isspace, text)) / len(text))
    # A word needs a letter of any script; an ellipsis, a dash, a bullet and a number have none.
    assert found["words_with_letter"] == pytest.approx((len(words) - 4) / len(words))


def test_symbols_are_hash_signs_or_ellipses_and_no_dot_is_of_two() -> None:
    """Gopher: above 0.1 "for either the hash symbol or the ellipsis"."""
    texts = {"# a # b … c ... d": 2 / 8, "# a … b … c ... d": 3 / 8, "Chapter 1 ...... 7": 2 / 4, "Well.... so": 1 / 2}
    for text, share in texts.items():
        assert measured(kernels.SHAPE, text)[0]["symbols_per_word"] == pytest.approx(share), text
    filler = "word " * 20
    assert reasons(["gopher_quality"], f"the # and # … … {filler}") == [None]
    assert reasons(["gopher_quality"], f"the # and # {filler}# #") == ["quality_gopher_quality"]


# --- filters --------------------------------------------------------------------------------------------------------


def test_prose_passes_and_what_is_none_does_not() -> None:
    chain = ["length", "gopher_quality", "gopher_repetition", "fineweb"]
    texts = {
        PROSE: None,
        "Too short a text.": "quality_length",
        "one two three " * 20 + PROSE: "quality_gopher_repetition",
        "\n".join(f"- {word} belongs among them" for word in PROSE.split()): "quality_gopher_quality",
        " ".join(f"{number}.{number}" for number in range(400)): "quality_gopher_quality",
        "\n".join(PROSE.replace(",", "").replace(".", "").split(" with ")): "quality_fineweb",
    }
    assert reasons(chain, *texts) == [*texts.values()]


def test_the_value_that_was_out_of_bounds_is_told() -> None:
    (verdict,) = judged("length", "Too short a text.")
    assert verdict == Verdict("Too short a text.", "quality_length", "words 4 < 50")


def test_nothing_may_be_left_for_a_filter() -> None:
    assert reasons(["length", "gopher_quality", "gopher_repetition"], "x") == ["quality_length"]
    assert judged(["lines", "length"], "Home")[0].detail == "no text is left"


def test_a_text_fares_alike_in_every_company() -> None:
    texts = [PROSE, "short", "x is x. " * 100, PROSE + " Write to a.b@example.org.", "\ufffd" * 10, PROSE.upper()] * 3
    together = judged("web", *texts)
    assert together == [judged("web", text)[0] for text in texts]
    assert {verdict.reason for verdict in together} > {None, "quality_lines"}


def test_broken_characters_are_mended_or_dropped() -> None:
    texts = ["It\u00e2\u0080\u0099s fine &amp; good\x07\r\n", "plain text", "caf\u00e9 \u201cquoted\u201d"]
    assert [verdict.text for verdict in judged("repair", *texts)] == [
        "It\u2019s fine & good\n",
        "plain text",
        "caf\u00e9 \u201cquoted\u201d",
    ]
    assert reasons("bad_characters", "a" * 2000 + "\ufffd", "a" * 500 + "\ufffd\ue000") == [
        None,
        "quality_bad_characters",
    ]
    assert [v.text for v in judged([{"kind": "repair", "normalization": "NFKC"}], "\ufb01ne \u00bd")] == [
        "fine 1\u20442"
    ]


def test_lines_that_are_no_text_go() -> None:
    page = "Home\nAbout us\n\nThe river was cold that day.\nPlease enable JavaScript.\n\n\n\nIt was dark. \nRead more"
    (verdict,) = judged("lines", page)
    assert verdict.text == "The river was cold that day.\n\nIt was dark. "
    assert reasons("lines", "Home\nAbout us\nContact") == ["quality_lines"]
    long = "We bake cookies every day, and " + PROSE
    assert judged("lines", long)[0].text == long


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe+x@mail.example.co.uk, please.", "Write to someone@example.com, please."),
        ("Call +49 (30) 1234 5678 or 212-555-0187.", "Call 555-0100 or 555-0100."),
        ("Ping 8.8.8.8 or 2001:4860:4860::8888 now.", "Ping 192.0.2.1 or 192.0.2.1 now."),
        ("token ghp_" + "a1B2" * 9 + " and AKIAABCDEFGHIJKLMNOP.", "token <key> and <key>."),
        ("Version 1.2.3.4.5, host 192.168.0.1, at 10:30:15, 1999-2005, ISBN 978-3-16-148410-0.", None),
        ("def f(x): return x @ y  # a@b", None),
        ("Add::Dead, a::b, ::, std::map and fe80::1 are names and no addresses", None),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----", "<key>"),
    ],
)
def test_personal_data_are_replaced(text: str, expected: str | None) -> None:
    assert judged("personal_data", text)[0].text == (expected or text)


def test_what_is_null_in_personal_data_stays() -> None:
    text = "jane@example.org, +49 30 1234 5678"
    assert judged([{"kind": "personal_data", "email": None}], text)[0].text == "jane@example.org, 555-0100"


def test_languages_are_told_apart() -> None:
    german = "Die Kinder gingen mit ihren Booten zum Fluss hinunter und blieben dort, bis es dunkel war."
    keep = [{"kind": "language", "keep": ["en"]}]
    assert reasons(keep, PROSE, german, "川のほとりで子供たちは暗くなるまで遊んでいました。", "42") == [
        None,
        *["quality_language"] * 3,
    ]
    assert judged([{"kind": "language", "keep": ["de"]}], german)[0].reason is None


@pytest.mark.parametrize(
    ("quality", "message"),
    [
        (["length", "length"], "length stands there twice"),
        ([{"kind": "length", "min_words": 10, "max_words": 5}], "min_words is above max_words"),
        ("wbe", "wbe"),
        ([], "is empty"),
        ([{"kind": "language"}], "keep"),
        ([{"kind": "language", "keep": []}], "name a language at least"),
        ([{"kind": "language", "keep": ["en", "english"]}], "'english' is no language that is known"),
    ],
)
def test_filters_that_cannot_be_meant_are_refused(quality: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        judged(quality)


def test_lines_that_may_be_boilerplate_are_told_by_words_as_by_the_whole_expression() -> None:
    phrases = (
        *("javascript", "cookie", "cookies", "terms of use", "terms of service", "privacy policy", "lorem ipsum"),
        *("all rights reserved", "sign in", "signed in", "signin", "log in", "logged in", "login", "loged in"),
        *("subscribe", "newsletter", "click here", "read more"),
    )
    for phrase in phrases:
        for like in (
            phrase,
            phrase.upper(),
            phrase.title(),
            phrase.replace("s", "\u017f"),
            phrase.replace("i", "\u0131"),
            phrase.replace("i", "\u0130"),
        ):
            line = f"Here they are: {like} of the house."
            changed = judged([{"kind": "lines"}], f"A line that stays here.\n{line}")[0].text
            assert (line not in changed) == bool(BOILERPLATE.search(line)), line
