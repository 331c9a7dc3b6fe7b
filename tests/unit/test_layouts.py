"""Trees of messages and scored completions become chats and preferences, and what does not is counted."""

import json
from pathlib import Path
from typing import Any

import pytest
from data_jobs import run_data, write_jsonl

from pipelines.data.blocks import Item
from pipelines.data.layouts import LEFT_OVER, Joined, join
from pipelines.data.rows import read_rows
from pipelines.errors import DataError


def made(rows: list[Any], layout: Any, format: str, columns: dict[str, str] | None = None) -> tuple[list[Any], Joined]:
    """(rows of ours or the reason why not, what was counted)"""
    counts = Joined()
    items = [Item(row if isinstance(row, dict) else None, None, "f", i) for i, row in enumerate(rows, 1)]
    found = [item.reason or item.row for item in join(items, layout, format, columns or {}, counts)]
    assert counts.is_whole and set(counts.left_over) <= set(LEFT_OVER) and 0 not in counts.left_over.values()
    return found, counts


def said(text: str, *replies: Any, role: str = "assistant", rank: Any = None, **more: Any) -> dict[str, Any]:
    """A message that holds its replies."""
    return {"text": text, "role": role, "rank": rank, "replies": list(replies), **more}


def asked(text: str, *replies: Any, **more: Any) -> dict[str, Any]:
    return said(text, *replies, role="prompter", **more)


def flat(root: dict[str, Any]) -> list[dict[str, Any]]:
    """The same tree, one message a row."""
    rows, waiting = [], [(None, root)]
    while waiting:
        parent, message = waiting.pop(0)
        own = f"{message['text']}-id"
        rows.append({**message, "message_id": own, "parent_id": parent} | {"replies": None})
        waiting += [(own, reply) for reply in message["replies"]]
    return rows


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("prompter", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


TREE = asked(
    "q",
    said("worst", rank=2),
    said("best", asked("again", said("second", rank=1), said("first", rank=0)), asked("nothing"), rank=0),
    said("middle", asked("deaf ears"), rank=1),
    said("new"),
)
CHAT = {"messages": turns("q", "best", "again", "first")}
PAIRS = [
    {"prompt": turns("q"), "chosen": "best", "rejected": "worst"},
    {"prompt": turns("q"), "chosen": "best", "rejected": "middle"},
    {"prompt": turns("q", "best", "again"), "chosen": "first", "rejected": "second"},
]


@pytest.mark.parametrize("rows", [[TREE], [{"message_tree_id": 1, "prompt": TREE}], flat(TREE), flat(TREE)[::-1]])
def test_the_path_of_best_ranked_replies_is_a_chat(rows: list[Any]) -> None:
    found, counts = made(rows, "tree", "chat")
    assert found == [CHAT] and (counts.read, counts.used, counts.bad) == (10, 4, 0)
    assert counts.left_over == {"worse_reply": 6}


@pytest.mark.parametrize("rows", [[TREE], flat(TREE)])
def test_the_best_reply_against_each_worse_one_is_a_preference(rows: list[Any]) -> None:
    found, counts = made(rows, "tree", "preference")
    assert found == PAIRS and (counts.read, counts.used) == (10, 7)
    assert counts.left_over == {"unanswered": 2, "unranked": 1}


def test_what_no_pair_can_be_made_of_is_counted() -> None:
    tree = asked("q", said("a", rank=0, deleted=False), said("b", rank=0), said("gone", asked("too"), deleted=True))
    found, counts = made([tree, asked("r", said("c", rank=0)), asked("alone")], "tree", "preference")
    assert found == [] and counts.read == 8 and counts.used == 0
    assert counts.left_over == {"tied": 2, "deleted": 2, "alone": 1, "unanswered": 3}
    assert made([asked("q", said("a", asked("and"))), asked("r")], "tree", "chat")[1].left_over == {"unanswered": 2}


def test_replies_to_nothing_circles_and_double_names_are_counted() -> None:
    rows = [
        {"message_id": "a", "parent_id": None, "role": "user", "text": "q"},
        {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "x"},
        {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "y"},
        {"message_id": "c", "parent_id": "nowhere", "role": "user", "text": "lost"},
        {"message_id": "d", "parent_id": "e", "role": "user", "text": "round"},
        {"message_id": "e", "parent_id": "d", "role": "assistant", "text": "and round"},
        {"message_id": "f", "parent_id": "f", "role": "assistant", "text": "self"},
        {"parent_id": "a", "role": "assistant", "text": "no name"},
        {"replies": [{"text": "no role"}], "text": "q", "role": "user"},
        {"replies": ["words"], "text": "q", "role": "user"},
        "no row",
    ]
    found, counts = made(rows, "tree", "chat")
    chat = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}]}
    assert found == ["duplicate_id", "missing_column", "no_messages", "no_messages", "empty", chat]
    assert counts.left_over == {"no_parent": 4} and (counts.read, counts.bad, counts.used) == (11, 5, 2)


def test_a_conversation_of_any_length_is_no_matter() -> None:
    rows = [
        {"message_id": i, "parent_id": i - 1 if i else None, "role": ("user", "assistant")[i % 2], "text": f"{i}"}
        for i in range(3_000)
    ]
    (chat,), _ = made(rows, "tree", "chat")
    assert len(chat["messages"]) == 3_000


def test_names_of_trees_are_mapped_inside_them_too() -> None:
    tree = {"who": "user", "text": "no", "body": "q", "answers": [{"who": "assistant", "body": "a", "answers": []}]}
    columns = {"role": "who", "text": "body", "replies": "answers"}
    assert made([tree], "tree", "chat", columns)[0] == [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    ]


QUESTION = [{"role": "user", "content": "q"}]


def scored(completion: Any, score: Any, prompt: Any = "q", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "score": score, **more}


def pair(chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": QUESTION, "chosen": chosen, "rejected": rejected}


def test_scores_of_one_prompt_are_pairs_wherever_their_rows_stand() -> None:
    rows = [scored("b", 2), scored("x", 1, "other"), scored("a", 5.5), scored("c", -1, QUESTION), scored("d", 5.5)]
    found, counts = made(rows, "scored", "preference")
    assert found == [pair("a", "b"), pair("a", "c")]
    assert (counts.read, counts.used) == (5, 3) and counts.left_over == {"alone": 1, "tied": 1}


@pytest.mark.parametrize(("bad", "good"), [(False, True), ("false", "True"), ("0", "1"), (0, 1), ("-1.5", "1e3")])
def test_labels_are_scores(bad: Any, good: Any) -> None:
    rows = [{"prompt": "q", "completion": text, "label": label} for text, label in (("no", bad), ("yes", good))]
    assert made(rows, "scored", "preference")[0] == [pair("yes", "no")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (scored("a", None), "no_score"),
        (scored("a", ""), "no_score"),
        (scored("a", "good"), "not_a_score"),
        (scored("a", float("nan")), "not_a_score"),
        (scored("a", [1]), "not_a_score"),
        (scored("a", 10**400), "not_a_score"),
        (scored("", 1), "empty_answer"),
        (scored(None, 1), "empty_answer"),
        (scored("a", 1, None), "empty"),
        (scored("a", 1, "a\0"), "nul"),
        ({"prompt": "q", "completion": "a"}, "missing_column"),
        ({"prompt": "q", "score": 1}, "missing_column"),
        ({"completion": "a", "score": 1}, "missing_column"),
    ],
)
def test_scored_rows_that_cannot_be_used(row: dict[str, Any], reason: str) -> None:
    found, counts = made([row], "scored", "preference")
    assert found == [reason] and counts.bad == 1


def test_ties_and_single_rows_make_nothing() -> None:
    found, counts = made([scored("a", 1), scored("b", 1), scored("x", 3, "other")], "scored", "preference")
    assert found == [] and counts.left_over == {"tied": 2, "alone": 1}


# --- through the data stage ---------------------------------------------------------------------------------------


def test_a_layout_is_accounted_for_and_written(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "completion": f"a{j}", "score": j} for i in range(200) for j in range(4)]
    path = write_jsonl(tmp_path / "a.jsonl", [*rows, {"prompt": "single", "completion": "a", "score": 1}, 7])
    fields: dict[str, Any] = {"format": "preference", "layout": "scored", "holdout": 0.2}
    output, metrics = run_data(tmp_path / "d", [path], **fields)
    assert metrics["rows_read"] == 802 and metrics["rows_joined"] == 800
    assert metrics["left_over"] == metrics["left_over_alone"] == 1
    assert metrics["rows_in"] == 601 and metrics["rows_used"] == 600 and metrics["dropped_not_an_object"] == 1
    asked = [
        {row["prompt"][0]["content"] for batch in read_rows(output, split) for row in batch}
        for split in ("train", "holdout")
    ]
    assert len(asked[1]) > 10 and not asked[0] & asked[1], "all pairs of a prompt stand on one side"
    dropped = [json.loads(line) for line in (tmp_path / "d" / "record" / "dropped.jsonl").read_text().splitlines()]
    assert [(row["reason"], row["line"]) for row in dropped] == [("not_an_object", 802)]


def test_trees_become_rows_of_ours(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [TREE])
    output, _ = run_data(tmp_path / "c", [path], format="chat", layout="tree", holdout=0.0)
    (row,) = [row for batch in read_rows(output, "train") for row in batch]
    assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"] * 2
    output, metrics = run_data(tmp_path / "p", [path], format="preference", layout="tree", holdout=0.0)
    assert metrics["train"] == 3 and metrics["left_over_unranked"] == 1


def test_a_layout_that_makes_nothing_says_why(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [scored("a", 1), scored("b", 1)])
    with pytest.raises(DataError, match=r"layout: scored makes no row of these 2: tied 2 \(ranked or scored as"):
        run_data(tmp_path / "d", [path], format="preference", layout="scored")
    path = write_jsonl(tmp_path / "b.jsonl", [{"question": "a", "answer": "b"}] * 300)
    with pytest.raises(DataError, match=r"rows have the columns 'question', 'answer'; needed: 'prompt' and 'compl"):
        run_data(tmp_path / "e", [path], format="preference", layout="scored", max_dropped=1.0)
