"""Compiled filters against what they stand for, written plainly: the same texts and figures, on texts of all kinds."""

import random
import re
from collections.abc import Iterator

import ftfy
import pytest
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from pipelines.cleaning.automaton import automaton
from pipelines.cleaning.kernels import TERMINAL, joined
from pipelines.cleaning.language import identifier
from pipelines.cleaning.lines import BOILERPLATE, LONGEST, LineFilter
from pipelines.cleaning.personal_data import Replacer
from pipelines.cleaning.repair import CONFIG, repaired
from pipelines.recipe.quality import Lines, PersonalData

SPACES = list("\n" * 6 + " " * 6 + "\x85\xa0\u1680\u2003\u2028\u202f\u205f\u3000\x1c\x1f\t\r\x0b\u180e\u200b")
WORDS = ["a", "the.", "!", "\u3002", "é", "😀", "cookies", "Cookie ", "co", "oKie", "log in", "LOGIN", "x" * 190]
WORDS += ["\u017fign in", "cook\u0131e", "coo\u212aie", "\u0130", "sub", "scribe", "read more", "login" * 3]
BROKEN = list("abc <>;#éñ“”’—…ﬁ\x07\x7f\x91\ufeff\ufffd") + ["\n"] * 8
BROKEN += [
    "&amp;",
    "&lt;",
    "&eacute;",
    "&amp;lt;",
    "Ã©",
    "â€™",
    "\r\n",
    "\r",
    "\x1b[31m",
    "Ð¿Ñ€Ð¸",
    "ÃƒÂ©",
    "ðŸ˜€",
    "Â ",
]


def texts_of(atoms: list[str], count: int) -> Iterator[str]:
    rng = random.Random(5)
    for _ in range(count):
        yield "".join(rng.choice(atoms) for _ in range(rng.randrange(40)))


def lines_kept(config: Lines, text: str) -> str:
    def is_kept(line: str) -> bool:
        if config.terminal_punctuation and not line.endswith(TERMINAL):
            return False
        boilerplate = config.boilerplate and len(line) < LONGEST and BOILERPLATE.search(line)
        return len(line.split()) >= config.min_words and not boilerplate

    kept = [line for line in text.split("\n") if not line.strip() or is_kept(line.strip())]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n")


@pytest.mark.parametrize("min_words", [0, 1, 3])
@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("boilerplate", [True, False])
def test_lines_are_those_of_the_plain_rule(min_words: int, terminal: bool, boilerplate: bool) -> None:
    config = Lines(kind="lines", min_words=min_words, terminal_punctuation=terminal, boilerplate=boilerplate)
    texts = list(texts_of(SPACES + WORDS, 1_500))
    found = LineFilter(config)(texts, *joined(texts))
    assert found == [lines_kept(config, text) for text in texts]
    assert found != texts


def test_lines_of_more_boilerplate_than_there_is_room_for() -> None:
    text = "Read more\n" * 3_000 + "This stays here."
    config = Lines(kind="lines", min_words=0, terminal_punctuation=False)
    assert LineFilter(config)([text], *joined([text])) == ["This stays here."]


def test_texts_are_mended_as_the_whole_text_would_be() -> None:
    texts = list(texts_of(BROKEN, 1_500))
    found = [repaired(text, None) for text in texts]
    assert found == [ftfy.fix_text(text, CONFIG) for text in texts]
    assert found != texts


def test_languages_and_their_probabilities_are_the_packages() -> None:
    package = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    words = [*list("xé世界の "), "the", "der", "und", "наш", "слово", "한국", "και", "que", "το", "is", "ال", "في", "मैं"]
    texts = [" ".join(text) for text in texts_of(words, 300)] + ["", "\n", "LOUD " * 40]
    assert [identifier().classify(text) for text in texts] == [package.classify(text) for text in texts]


def test_a_placeholder_may_be_what_a_later_pattern_looks_for() -> None:
    config = PersonalData(kind="personal_data", key="8.8.8.8")
    text = "1234 AKIA" + "A1B2" * 4
    assert Replacer(config)([text], *joined([text]), [12]) == ["1234 192.0.2.1"]


def test_an_automaton_finds_words_inside_words() -> None:
    moves, ended = automaton([["he", "she"], ["hers"]], ignore_case=True)
    state, found = 0, []
    for byte in b"usHErs":
        state = int(moves[state, byte])
        found.append(int(ended[state]))
    assert found == [0, 0, 0, 1, 0, 2]
