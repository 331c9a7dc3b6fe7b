"""Spelling: one slip away, and the nearest word."""

import pytest

from pipelines.recipe.words import closest, did_you_mean, is_typo


@pytest.mark.parametrize("word", ["bta", "betaa", "bete", "ebta", "bet", "xbeta"])
def test_one_slip_is_seen(word: str) -> None:
    assert is_typo(word, "beta")
    assert is_typo("beta", word)


@pytest.mark.parametrize("word", ["beta", "bt", "baet5", "atbe", "betaaa", ""])
def test_no_slip_and_two_slips_are_not_one(word: str) -> None:
    assert not is_typo(word, "beta")


def test_swapped_letters_come_before_wrong_ones() -> None:
    assert closest("pdo", ["ppo", "dpo"]) == "dpo"


def test_the_beginning_of_a_word_names_it() -> None:
    assert closest("sliding", ["full_attention", "sliding_attention"]) == "sliding_attention"


def test_nothing_near_gives_no_advice() -> None:
    assert did_you_mean("zebra", ["beta", "model"]) == ""
    assert did_you_mean("beat", []) == ""
    assert did_you_mean("beat", ["beta"]) == "; did you mean 'beta'?"
