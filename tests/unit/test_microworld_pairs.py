"""Sentiment and translation of the built-in world: right by a second reading, and apart in training and holdout."""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from pipelines.data import microworld as m
from pipelines.data import microworld_sentiment as s
from pipelines.data import microworld_translation as t
from pipelines.data import village as v


@lru_cache
def made(track: str, split: str = "train", size: int = 2_000) -> list[dict[str, Any]]:
    return list(m.generate(track, split, size))


# --- sentiment ----------------------------------------------------------------------------------------------------


def feels(text: str) -> str:
    """How the person asked for feels, worked out from the words alone, in other words than the generator's."""
    told, person = re.fullmatch(r"Today (.*) How is (\w+)\?", text).groups()
    things = dict(re.findall(rf"(\w+) (?:{'|'.join(v.VERBS)}) (\w+) \w+\.", told))
    said = re.sub(rf"\w+ (?:{'|'.join(v.VERBS)}) \w+ \w+\. ?", "", told)
    if report := re.fullmatch(r"\w+ says that (.*)\. \w+ is (right|wrong)\.", said):
        good = is_good(report[1])
        return "positive" if good == (report[2] == "right") else "negative"
    said = said.removesuffix(".")
    if " because " in said:
        feeling, _, reason = said.partition(" because ")
        assert is_good(feeling) == is_good(reason)
        said = feeling
    elif pair := re.fullmatch(r"(?:\w+ is|The \w+ are) (\w+) and (\w+)", said):
        assert is_good(pair[1]) == is_good(pair[2])
        said = pair[1]
    elif " and " in said:
        (said,) = [part for part in said.split(" and ") if f"the {things[person]} " in part.lower()]
    elif said.startswith("Although "):
        said = said.partition(", ")[2]
    elif ", although " in said:
        said = said.partition(", ")[0]
    elif ", but " in said:
        said = said.partition(", but ")[2]
    return "positive" if is_good(said) else "negative"


def is_good(claim: str) -> bool:
    word = claim.split()[-1]
    (good,) = [word in stock[1] for stock in (s.QUALITIES, s.MOODS) if word in {*stock[0], *stock[1]}]
    return good != any(f" {denial} " in claim for denial in s.DENIALS)


@pytest.mark.parametrize("split", ["train", "holdout"])
def test_every_label_follows_from_its_text(split: str) -> None:
    assert [feels(row["text"]) for row in made("sentiment", split)] == [r["label"] for r in made("sentiment", split)]
    assert {row["form"] for row in made("sentiment", split)} == set(s.FORMS)


@pytest.mark.parametrize("split", ["train", "holdout"])
def test_a_review_says_several_things_of_one_mood(split: str) -> None:
    moods = Counter[bool]()
    for row in made("reviews", split):
        assert set(row) == {"text"}
        act, *claims = re.findall(r"[^.]+", row["text"])
        assert re.fullmatch(rf"Today \w+ (?:{'|'.join(v.VERBS)}) \w+ \w+", act) and 2 <= len(claims) <= 4
        known = {word for stock in (s.QUALITIES, s.MOODS) for side in stock for word in side}
        (mood,) = {is_good(word) for claim in claims for word in re.findall(r"\w+", claim) if word in known}
        moods[mood] += 1
        assert bool(facts(f"{act}.") & v.RESERVED) == (split == "holdout")
    assert 0.45 < moods[True] / moods.total() < 0.55


def test_no_word_is_good_and_bad() -> None:
    words = [word for stock in (s.QUALITIES, s.MOODS) for side in stock for word in side]
    assert len(set(words)) == len(words) == 131
    assert not {*words} & {*v.PLACES, *v.OBJECTS, *v.VERBS, *v.PEOPLE}


def facts(text: str) -> set[v.Fact]:
    return set(re.findall(rf"(\w+) (?:{'|'.join(v.VERBS)}) (\w+) (\w+)\.", text))


def test_what_the_person_does_is_known_from_training_or_reserved() -> None:
    assert not any(facts(row["text"]) & v.RESERVED for row in made("sentiment"))
    for row in made("sentiment", "holdout"):
        ((person, *_),) = facts(row["text"]) & v.RESERVED
        assert row["text"].endswith(f" How is {person}?")


def test_both_labels_are_as_frequent_in_every_form() -> None:
    for form in s.FORMS:
        labels = [row["label"] for row in made("sentiment", size=4_000) if row["form"] == form]
        assert 0.4 < labels.count("positive") / len(labels) < 0.6, form


def test_words_without_their_order_are_right_about_four_fifths() -> None:
    """Logistic regression on which words a text has."""
    words = sorted({word for row in made("sentiment") for word in re.findall(r"\w+", row["text"])})
    places = {word: place for place, word in enumerate(words)}

    def seen(rows: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        bags = np.zeros((len(rows), len(words)))
        for number, row in enumerate(rows):
            bags[number, [places[word] for word in re.findall(r"\w+", row["text"]) if word in places]] = 1
        return bags, np.array([row["label"] == "positive" for row in rows])

    (bags, labels), (new_bags, new_labels) = seen(made("sentiment")), seen(made("sentiment", "holdout", 800))
    weights = np.zeros(len(words))
    for _ in range(200):
        weights += 2 * bags.T @ (labels - 1 / (1 + np.exp(-bags @ weights))) / len(labels)
    accuracy = ((new_bags @ weights > 0) == new_labels).mean()
    assert 0.75 < accuracy < 0.87, accuracy
    # One rule that needs the order: the last judgement decides.
    assert (
        0.7 < np.mean([is_good(last(row["text"])) == (row["label"] == "positive") for row in made("sentiment")]) < 0.9
    )


def last(text: str) -> str:
    return re.findall("|".join(word for stock in (s.QUALITIES, s.MOODS) for side in stock for word in side), text)[-1]


# --- translation --------------------------------------------------------------------------------------------------


def sentence(**fields: Any) -> t.Sentence:
    plain = {"people": ("Mia",), "verb": "paints", "tense": "present", "is_denied": False, "thing": "boats"}
    return t.Sentence(**(plain | {"is_plural": True, "adjective": None, "place": None} | fields))


@pytest.mark.parametrize(
    ("fields", "english", "talu"),
    [
        ({}, "Mia paints boats.", "sora Mia kirava."),
        ({"place": "ashore"}, "Mia paints boats ashore.", "sora Mia kirava ula."),
        ({"is_plural": False}, "Mia paints a boat.", "sora Mia rava."),
        ({"thing": "boxes", "is_plural": False}, "Mia paints a box.", "soro Mia boko."),
        ({"adjective": "old", "is_plural": False}, "Mia paints an old boat.", "sora Mia rava tora."),
        ({"adjective": "old", "thing": "keys"}, "Mia paints old keys.", "sore Mia kigise kitore."),
        ({"is_denied": True}, "Mia does not paint boats.", "wa sora Mia kirava."),
        ({"people": ("Mia", "Tom")}, "Mia and Tom paint boats.", "sorari Mia na Tom kirava."),
        ({"people": ("Mia", "Tom"), "is_denied": True, "thing": "keys"}, "Mia and Tom do not paint keys.",
         "wa soreri Mia na Tom kigise."),
        ({"tense": "past", "verb": "hides"}, "Mia hid boats.", "kulatu Mia kirava."),
        ({"tense": "past", "is_denied": True}, "Mia did not paint boats.", "wa soratu Mia kirava."),
        ({"tense": "future", "is_denied": True}, "Mia will not paint boats.", "wa sorane Mia kirava."),
    ],
)  # fmt: skip
def test_a_sentence_in_both_languages(fields: dict[str, Any], english: str, talu: str) -> None:
    assert (t.english(sentence(**fields)), t.talu(sentence(**fields))) == (english, talu)


def test_the_examples_of_the_grammar_are_what_it_says() -> None:
    found = re.findall(r"^ {4}(\S.*\.) +(\S.*\.)$", t.__doc__ or "", re.MULTILINE)
    first = sentence(people=("Mia", "Tom"), tense="past", adjective="small", place="ashore")
    second = sentence(people=("Eva",), verb="buys", tense="future", is_denied=True, thing="keys", is_plural=False)
    wanted = [first, dataclasses.replace(second, adjective="old")]
    assert found == [(t.english(one), t.talu(one)) for one in wanted]


def named(words: Mapping[str, str], word: str) -> str | None:
    """What a word of Talu means."""
    return next((name for name, told in words.items() if told == word), None)


def read_talu(text: str) -> t.Sentence:
    """A sentence from its Talu, by looking words up; so no two sentences have the same."""
    words = text.removesuffix(".").split()
    is_denied = words[0] == "wa"
    verb, first, *rest = words[is_denied:]
    people, rest = ((first, rest[1]), rest[2:]) if rest[0] == "na" else ((first,), rest)
    vowel, ending = verb[3], verb[4:].removeprefix("ri")
    is_plural = rest[0] not in t.NOUNS.values()
    described = [f"{'ki' * is_plural}{root}{vowel}" for root in t.ADJECTIVES.values()]
    adjective = [*t.ADJECTIVES][described.index(rest[1])] if rest[1:2] and rest[1] in described else None
    place = named(t.WHERE_TO, rest[-1])
    assert rest[0][-1] == vowel and (len(people) > 1) == verb[4:].startswith("ri")
    assert len(rest) == 1 + (adjective is not None) + (place is not None)
    (work,) = [name for name, work in t.WORKS.items() if work.root == verb[:3]]
    thing = named(t.NOUNS, rest[0].removeprefix("ki") if is_plural else rest[0])
    return t.Sentence(people, work, named(t.ENDINGS, ending), is_denied, thing, is_plural, adjective, place)


def test_exactly_one_translation_is_right_in_either_direction() -> None:
    rows = [*made("translation"), *made("translation", "holdout")]
    for row in rows:
        assert t.english(read_talu(row["target"])) == row["source"]
    assert len({row["source"] for row in rows}) == len({row["target"] for row in rows})


def test_words_of_talu_differ() -> None:
    roots = [work.root for work in t.WORKS.values()] + [*t.ADJECTIVES.values()]
    words = [*t.NOUNS.values(), *t.WHERE_TO.values(), *(root + vowel for root in roots for vowel in "aoe"), "na", "wa"]
    assert len(words) == len(set(words)) and not set(words) & {t.PLURAL + word for word in words}
    assert set(t.NOUNS) == set(v.OBJECTS) and set(t.WORKS) == set(v.VERBS) and set(t.WHERE_TO) == set(v.PLACES)
    assert Counter(noun[-1] for noun in t.NOUNS.values()) == {"a": 5, "o": 5, "e": 6}


def test_what_is_done_to_what_is_new_in_the_holdout_and_its_words_are_not() -> None:
    train, holdout = (
        {(one.verb, one.thing) for one in (read_talu(row["target"]) for row in made("translation", split))}
        for split in ("train", "holdout")
    )
    assert holdout == t.NEW and not train & t.NEW
    assert {verb for verb, _ in train} == set(v.VERBS) and {thing for _, thing in train} == set(v.OBJECTS)
    assert 20 < len(t.NEW) < 40
