"""The built-in world: what its texts, chats, wishes and benchmark items promise."""

import json
import math
import re
from collections import Counter
from functools import lru_cache
from itertools import islice

import pytest

from pipelines.data import microworld as m
from pipelines.data import village as v


@lru_cache
def made(track: str, split: str = "train", size: int = 300) -> list[m.Record]:
    return list(m.generate(track, split, size, seed=0))


@lru_cache
def items(name: str, size: int = 400) -> list[m.Record]:
    return m.task_items(name, size, seed=0)


@pytest.mark.parametrize("track", list(m.TRACKS))
def test_the_same_seed_gives_the_same_records_and_another_seed_others(track: str) -> None:
    first, again = (json.dumps(list(m.generate(track, "train", 30, seed=0))) for _ in range(2))
    assert first == again
    assert first != json.dumps(list(m.generate(track, "train", 30, seed=1)))


@pytest.mark.parametrize("name", m.TASKS)
def test_benchmark_items_of_one_seed_are_always_the_same(name: str) -> None:
    assert json.dumps(m.task_items(name, 30, seed=0)) == json.dumps(m.task_items(name, 30, seed=0))
    assert m.task_items(name, 30, seed=0) != m.task_items(name, 30, seed=1)


@pytest.mark.parametrize("track", list(m.TRACKS))
def test_a_record_does_not_depend_on_the_number_asked_for(track: str) -> None:
    assert list(m.generate(track, "train", 5, seed=0)) == made(track)[:5]
    assert list(islice(m.generate(track, "train", None, seed=0), 5)) == made(track)[:5]


def test_without_a_size_a_track_has_its_default_size() -> None:
    assert len(list(m.generate("prompts", "holdout", None, seed=0))) == m.TRACKS["prompts"].holdout


def test_replaying_a_text_costs_what_drawing_it_cost() -> None:
    for i in range(300):
        told = v.text_story(v.Draw(v.random_for("any", i)))
        assert v.text_story(v.Draw(text=told.text)).cost == pytest.approx(told.cost, abs=1e-9)


def test_the_odds_of_all_first_sentences_sum_to_one() -> None:
    total = 0.0
    for person in v.PEOPLE[:2]:
        for verb in v.VERBS:
            for thing in v.OBJECTS:
                for place in v.PLACES:
                    draw = v.Draw(text=f"Today {person} {verb} {thing} {place}.")
                    with pytest.raises(v.Illegal):
                        v.text_story(draw)
                    total += math.exp(-draw.cost)
    assert total == pytest.approx(0.75 * 2 / len(v.PEOPLE))


def test_the_floor_is_the_same_within_noise_for_two_seeds() -> None:
    first, second = (m.floor_nats_per_byte(600, seed, with_end=True) for seed in (0, 1))
    assert m.floor_nats_per_byte(600, with_end=False) < first - 0.002
    assert 0.1 < first < 0.3
    assert first == pytest.approx(second, rel=0.04)


def test_reserved_facts_never_hold_in_training() -> None:
    for record in made("text"):
        assert not v.text_story(v.Draw(text=record["text"])).facts & v.RESERVED
    for record in made("chat"):
        if record["kind"] == "question":
            assert not told_in(record["messages"][0]["content"]).facts & v.RESERVED
    assert 0.03 < len(v.RESERVED) / (len(v.PEOPLE) * len(v.OBJECTS) * len(v.PLACES)) < 0.07


def told_in(message: str) -> v.Story:
    """The story of a message that ends with a question."""
    return v.replay(message[: message.rindex(". ") + 1], v.TOLD)


def test_every_record_of_a_track_has_the_keys_of_its_format() -> None:
    keys = {"text": {"text"}, "chat": {"messages"}, "preference": {"prompt", "chosen", "rejected"},
            "prompt": {"prompt", "person", "object", "length"}, "labelled": {"text", "label"},
            "pairs": {"source", "target"}}  # fmt: skip
    for name, track in m.TRACKS.items():
        for record in made(name):
            assert keys[track.format] <= record.keys()
        for record in made(name) if track.format == "chat" else []:
            assert [turn["role"] for turn in record["messages"]] == ["user", "assistant"] * (
                len(record["messages"]) // 2
            )


def test_train_and_holdout_are_disjoint() -> None:
    wishes = {r["prompt"] for r in [*made("prompts"), *made("preferences")]}
    wishes |= {r["messages"][0]["content"] for r in made("chat") if r["kind"] == "writing"}
    assert not wishes & {r["prompt"] for r in made("prompts", "holdout")}
    assert not {r["text"] for r in made("text")} & {r["text"] for r in made("text", "holdout")}


def test_most_texts_are_distinct() -> None:
    assert len({r["text"] for r in made("text", size=3000)}) > 2980


def test_chat_answers_are_true_and_held_out_stories_are_new() -> None:
    for split in ("train", "holdout"):
        for record in (r for r in made("chat", split) if r["kind"] == "question"):
            turns = record["messages"]
            story = told_in(turns[0]["content"])
            assert split == "train" or story.facts <= v.RESERVED
            for question, answer in zip(turns[::2], turns[1::2], strict=True):
                assert answer["content"] == true_answer(story.text, question["content"].rpartition(". ")[2])


def true_answer(told: str, question: str) -> str:
    """Worked out from the sentences alone, in other words than the generator's."""
    now: dict[str, tuple[str, str]] = {}
    for person, act, place in re.findall(r"(\w+) (\w+ \w+)(?: (\w+))?\.", told.removeprefix("Today ")):
        now[person] = (act, place or now[act.split()[1]][1])
    asked = re.search(r"(?:What does|Where is|Who is) (\w+)", question)[1]
    found = [p for p, (_, place) in now.items() if asked in (p, place)]
    return f"Now {found[0]} {' '.join(now[found[0]])}." if found else "I do not know."


def test_held_out_chat_questions_have_the_true_answer() -> None:
    for item in m.chat_items(100, seed=0):
        (turn,) = item["messages"]
        told, _, question = turn["content"].rpartition(". ")
        assert item["target"] == true_answer(told + ".", question)


@pytest.mark.parametrize("name", m.TASKS)
def test_benchmark_answers_are_true_and_new(name: str) -> None:
    for item in items(name):
        told, question, said = re.fullmatch(r"(.*?\.)( (?:Where|Who|What) [^?]*\?)(.*)", item["prompt"]).groups()
        given = said + item["target"]
        assert f" {true_answer(told, question)}"[: len(given)] == given
        assert item["options"][item["answer"]] in item["target"] and len(set(item["options"])) == 4
        assert v.replay(told, SHAPES.get(item["kind"], v.ITEM)).facts <= v.RESERVED


SHAPES = {"news": v.NEWS, "helper": v.HELP}


@pytest.mark.parametrize("name", m.TASKS)
def test_no_rule_about_positions_beats_a_third(name: str) -> None:
    right: Counter[str] = Counter()
    for item in items(name):
        answer = item["options"][item["answer"]]
        said = [word for word in re.findall(r"\w+", item["prompt"].rpartition(".")[0]) if word in item["options"]]
        first, last = list(dict.fromkeys(said)), list(dict.fromkeys(reversed(said)))
        right.update([f"{first.index(answer)} from the start", f"{last.index(answer)} from the end"])
        top = [word for word in first if said.count(word) == max(map(said.count, first))]
        right["most frequent"] += (answer in top) / len(top)
        right[f"option {item['answer']}"] += 1
    noise = 2 * (0.33 * 0.67 / len(items(name))) ** 0.5
    assert max(right.values()) / len(items(name)) <= 0.34 + noise, right


def test_the_reward_is_half_the_length_and_half_the_ending_behind_a_gate() -> None:
    asked = ("Mia", "cups", 3)
    title = "A story about Mia and cups. "
    good = f"{title}Today Mia sells cups indoors. She finds cups ashore. She paints cups abroad. The end."
    assert m.story_reward(good, *asked) == 1.0
    for told, reward in {
        good.removesuffix(" The end."): 0.5,
        good.removeprefix(title): 0.0,
        good.replace(" She finds cups ashore.", ""): 0.5,
        good.replace("finds", "sells"): 0.0,
        good.replace("ashore", "indoors"): 0.0,
        good.replace("She finds", "He finds"): 0.0,
        good.replace("Mia", "Eva"): 0.0,
        good.replace("cups", "hats"): 0.0,
        good + " The end.": 0.0,
        "": 0.0,
    }.items():
        assert m.story_reward(told, *asked) == reward, told


def test_of_a_pair_only_the_chosen_story_keeps_the_wish() -> None:
    for record in made("preferences"):
        asked = (record["person"], record["object"], record["length"])
        assert m.story_reward(record["chosen"], *asked) == 1.0
        assert m.story_reward(record["rejected"], *asked) == (0.5 if record["fault"] in ("length", "ending") else 0.0)


def test_one_constant_reply_scores_nothing() -> None:
    constant = made("preferences")[0]["chosen"]
    scores = [m.story_reward(constant, r["person"], r["object"], r["length"]) for r in made("prompts", "holdout")]
    assert sum(scores) / len(scores) < 0.02


def test_half_of_the_written_stories_break_each_half_of_the_wish() -> None:
    scores = [m.story_reward(r["messages"][1]["content"], r["person"], r["object"], r["length"])
              for r in made("chat", size=2000) if r["kind"] == "writing"]  # fmt: skip
    assert 0.44 < sum(scores) / len(scores) < 0.56
