"""Rows of any custom become rows of ours, or a reason."""

import json
from typing import Any

import pytest

from pipelines.data.formats import REASONS, Unusable, content, normaliser, num_bytes

USER, ANSWER = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}
SYSTEM, OTHER = {"role": "system", "content": "Be kind."}, {"role": "assistant", "content": "No."}


def normal(format: str, row: dict[str, Any], columns: dict[str, str] | None = None) -> Any:
    """The row, or the reason."""
    try:
        return normaliser(format, columns or {})(row)
    except Unusable as error:
        assert error.reason in REASONS
        return error.reason


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", {"text": "a"}),
        (" a\r\n\u2028\ufeff", {"text": " a\r\n\u2028\ufeff"}),
        ("null", {"text": "null"}),
        ("", "empty"),
        (" \n\t", "empty"),
        (None, "empty"),
        (1.5, "not_text"),
        (["a"], "not_text"),
        (float("nan"), "not_text"),
        ("a\0b", "nul"),
        ("a\ud800b", "lone_surrogate"),
        (json.loads('"\\ud83d\\ude00"'), {"text": "😀"}),
        (json.loads('"\\udc00x"'), "lone_surrogate"),
    ],
)
def test_text(value: Any, expected: Any) -> None:
    assert normal("text", {"text": value, "other": 1}) == expected


def test_a_row_without_its_column() -> None:
    assert normal("text", {"content": "a"}) == "missing_column"
    assert normal("chat", {"text": "a"}) == "missing_column"
    assert normal("preference", {"prompt": "a", "chosen": "b"}) == "missing_column"
    assert normal("prompt", {}) == "missing_column"


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ANSWER]},
        {"messages": [USER | {"name": None}, ANSWER | {"tool_calls": None}], "prompt": "x"},
        {"messages": None, "prompt": "Hi?", "completion": "Yes."},
        {"prompt": "Hi?", "completion": "Yes."},
        {"prompt": [USER], "completion": [ANSWER]},
        {"prompt": "Hi?", "completion": [ANSWER]},
        {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Yes."}]},
        {"instruction": "Hi?", "input": "", "output": "Yes."},
        {"instruction": "Hi?", "output": "Yes."},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi?"}]}, ANSWER]},
        {"messages": [USER, ANSWER | {"tool_calls": [], "weight": 1}], "system": " "},
        {"prompt": "Hi?", "completion": ANSWER},
        {"instruction": "Hi?", "input": " \n", "output": "Yes.", "system": None, "history": []},
    ],
)
def test_every_custom_of_chat_data_gives_the_same_messages(row: dict[str, Any]) -> None:
    assert normal("chat", row) == {"messages": [USER, ANSWER]}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ANSWER], "system": "Be kind."},
        {"messages": [SYSTEM, USER, ANSWER], "system": "Be cruel."},
        {"messages": [{"role": "developer", "content": "Be kind."}, USER, ANSWER]},
        {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Yes."}], "system": "Be kind."},
        {"prompt": "Hi?", "completion": "Yes.", "system": "Be kind."},
        {"instruction": "Hi?", "output": "Yes.", "system": "Be kind."},
    ],
)
def test_a_system_column_comes_first_unless_a_turn_says_it(row: dict[str, Any]) -> None:
    assert normal("chat", row) == {"messages": [SYSTEM, USER, ANSWER]}


def test_a_system_column_belongs_to_every_prompt() -> None:
    told = {"system": "Be kind."}
    pairs = [
        {"prompt": "Hi?", "chosen": "Yes.", "rejected": "No."},
        {"chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
    ]
    assert [normal("preference", row | told)["prompt"] for row in pairs] == [[SYSTEM, USER]] * 2
    row = normal("prompt", {"prompt": "Hi?", "id": 1} | told)
    assert row == {"prompt": [SYSTEM, USER], "columns": '{"id": 1}'}


def test_the_history_of_an_instruction_comes_before_it() -> None:
    row = {"instruction": "Hi?", "output": "Yes.", "history": [["First?", "No."]]}
    assert normal("chat", row) == {"messages": [{"role": "user", "content": "First?"}, OTHER, USER, ANSWER]}
    for history, reason in ((["a"], "no_messages"), ([["a"]], "no_messages"), ([["a", ""]], "empty_answer")):
        assert normal("chat", row | {"history": history}) == reason


def test_an_alpaca_input_follows_its_instruction() -> None:
    row = {"instruction": "Add.", "input": "1 1", "output": "2"}
    assert normal("chat", row)["messages"][0]["content"] == "Add.\n\n1 1"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "no_messages"),
        ("text", "no_messages"),
        (["text"], "no_messages"),
        (None, "no_messages"),
        ([USER], "no_assistant_turn"),
        ([SYSTEM], "no_assistant_turn"),
        ([ANSWER], "wrong_order"),
        ([USER, USER, ANSWER], "wrong_order"),
        ([USER, ANSWER, ANSWER], "wrong_order"),
        ([USER, SYSTEM, ANSWER], "wrong_order"),
        ([SYSTEM, ANSWER], "wrong_order"),
        ([USER, ANSWER, USER], "ends_without_answer"),
        ([USER, {"role": "tool", "content": "x"}, ANSWER], "unknown_role"),
        ([{"content": "x"}, ANSWER], "unknown_role"),
        ([USER, ANSWER | {"tool_calls": [{"id": "1"}]}], "tool_call"),
        ([USER, ANSWER | {"weight": 0}], "weight_zero"),
        ([USER, {"role": "assistant", "content": " "}], "empty_answer"),
        ([USER, {"role": "assistant", "content": None}], "empty_answer"),
        ([{"role": "user", "content": ""}, ANSWER], "empty"),
        ([USER, {"role": "assistant", "content": {"a": 1}}], "not_text"),
        ([USER, {"role": "assistant", "content": [{"type": "image"}]}], "not_text"),
        ([USER, {"role": "assistant", "content": "a\0"}], "nul"),
        ([{"role": "user", "content": "\ud800"}, ANSWER], "lone_surrogate"),
    ],
)
def test_conversations_that_cannot_be_used(messages: Any, reason: str) -> None:
    assert normal("chat", {"messages": messages}) == reason


def test_a_system_message_may_come_first() -> None:
    assert normal("chat", {"messages": [SYSTEM, USER, ANSWER]}) == {"messages": [SYSTEM, USER, ANSWER]}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi?", "chosen": "Yes.", "rejected": "No."},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]},
        {"prompt": "Hi?", "chosen": [ANSWER], "rejected": [OTHER]},
        {"chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
        {"prompt": "Hi?", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
        {"instruction": "Hi?", "chosen": "Yes.", "rejected": "No."},
        {"chosen": "\n\nHuman: Hi?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Hi?\n\nAssistant: No.\n"},
        {"prompt": "Hi?", "chosen": ANSWER, "rejected": OTHER},
    ],
)
def test_explicit_and_implicit_prompts_give_the_same_pair(row: dict[str, Any]) -> None:
    assert normal("preference", row) == {"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen_equals_rejected"),
        ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "chosen_equals_rejected"),
        ({"chosen": [USER, ANSWER], "rejected": [{"role": "user", "content": "x"}, ANSWER]}, "no_common_prompt"),
        ({"chosen": [USER, ANSWER], "rejected": [USER]}, "no_common_prompt"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant:"}, "empty_answer"),
        ({"chosen": "a\n\nHuman: b", "rejected": "a\n\nAssistant: c"}, "missing_column"),
        ({"chosen": [USER, ANSWER, USER, OTHER], "rejected": [USER, OTHER]}, "several_turns"),
        ({"prompt": [USER, ANSWER], "chosen": "b", "rejected": "c"}, "ends_without_question"),
        ({"prompt": [SYSTEM], "chosen": "b", "rejected": "c"}, "wrong_order"),
        ({"prompt": "a", "chosen": "", "rejected": "c"}, "empty_answer"),
        ({"prompt": "", "chosen": "b", "rejected": "c"}, "empty"),
    ],
)
def test_pairs_that_cannot_be_used(row: dict[str, Any], reason: str) -> None:
    assert normal("preference", row) == reason


def test_a_conversation_before_the_pair_is_its_prompt() -> None:
    row = normal(
        "preference", {"chosen": [SYSTEM, USER, ANSWER, USER, ANSWER], "rejected": [SYSTEM, USER, ANSWER, USER, OTHER]}
    )
    assert row == {"prompt": [SYSTEM, USER, ANSWER, USER], "chosen": [ANSWER], "rejected": [OTHER]}


def test_prompts_keep_all_other_columns() -> None:
    row = normal("prompt", {"prompt": "Hi?", "length": 3, "tags": ["a"], "odd": "\ud800", "none": None})
    assert row["prompt"] == [USER]
    assert json.loads(row["columns"]) == {"length": 3, "tags": ["a"], "odd": "\ud800", "none": None}
    row["columns"].encode()


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ([USER, ANSWER], "ends_without_question"),
        ([USER, SYSTEM], "wrong_order"),
        ([SYSTEM], "wrong_order"),
        ([], "no_messages"),
        (None, "empty"),
    ],
)
def test_prompts_that_cannot_be_used(prompt: Any, reason: str) -> None:
    assert normal("prompt", {"prompt": prompt}) == reason


def test_columns_are_mapped_first() -> None:
    row = {"instruction": "Hi?", "output": "Yes.", "input": "not this"}
    mapped = normal("chat", row, {"prompt": "instruction", "completion": "output"})
    assert mapped == {"messages": [USER, ANSWER]}
    assert normal("text", {"content": "a", "text": "b"}, {"text": "content"}) == {"text": "a"}
    assert normal("text", {"text": "b"}, {"text": "content"}) == "missing_column"
    prompt = normal("prompt", {"question": "Hi?", "gold": 4, "id": 7}, {"prompt": "question", "answer": "gold"})
    assert json.loads(prompt["columns"]) == {"answer": 4, "id": 7}


def test_a_mapping_may_reach_into_a_column() -> None:
    row = {"turns": ["Hi?", "And?"], "id": 7}
    assert normal("prompt", row, {"prompt": "turns.0"})["prompt"] == [USER]
    assert json.loads(normal("prompt", row, {"prompt": "turns.0"})["columns"]) == row
    assert normal("prompt", row, {"prompt": "turns.5"}) == "missing_column"
    nested = {"task": "Hi?", "instances": [{"output": "Yes."}]}
    mapped = normal("chat", nested, {"prompt": "task", "completion": "instances.0.output"})
    assert mapped == {"messages": [USER, ANSWER]}


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("good", "good"),
        (" good ", " good "),
        ("1.5", "1.5"),
        (3, "3"),
        (-3, "-3"),
        (10**30, str(10**30)),
        (True, "true"),
        (False, "false"),
        (1.5, 1.5),
        (4.0, 4.0),
        (["b", "a", "b"], ["a", "b"]),
        ([2, True, "2"], ["2", "true"]),
        ([], []),
        (None, "no_label"),
        ("", "no_label"),
        (" ", "no_label"),
        ([None], "no_label"),
        ([""], "no_label"),
        (float("nan"), "not_a_label"),
        (float("-inf"), "not_a_label"),
        ({"a": 1}, "not_a_label"),
        ([1.5], "not_a_label"),
        ([["a"]], "not_a_label"),
        ("a\0", "nul"),
        ("a\ud800", "lone_surrogate"),
    ],
)
def test_labels(label: Any, expected: Any) -> None:
    row = normal("labelled", {"text": "a", "label": label, "other": 1})
    found = row if isinstance(row, str) else json.loads(row["label"])
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "a", "label": "x"}, {"text": "a", "text_pair": None, "label": '"x"'}),
        ({"text": "a", "text_pair": None, "label": "x"}, {"text": "a", "text_pair": None, "label": '"x"'}),
        ({"text": "a", "text_pair": "b", "label": 1}, {"text": "a", "text_pair": "b", "label": '"1"'}),
        ({"text": "a", "text_pair": " ", "label": 1}, "empty_side"),
        ({"text": "a", "text_pair": 2, "label": 1}, "not_text"),
        ({"text": "", "text_pair": "b", "label": 1}, "empty"),
        ({"text": "a"}, "missing_column"),
        ({"label": 1}, "missing_column"),
    ],
)
def test_labelled_texts_and_pairs_of_texts(row: dict[str, Any], expected: Any) -> None:
    assert normal("labelled", row) == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"source": "a", "target": "b", "id": 1}, {"source": "a", "target": "b"}),
        ({"source": "a", "target": "a"}, {"source": "a", "target": "a"}),
        ({"source": "a", "target": ""}, "empty_side"),
        ({"source": None, "target": "b"}, "empty_side"),
        ({"source": "a", "target": 1}, "not_text"),
        ({"source": "a"}, "missing_column"),
    ],
)
def test_sources_and_targets(row: dict[str, Any], expected: Any) -> None:
    assert normal("pairs", row) == expected


def test_columns_of_labelled_data_and_pairs_are_mapped() -> None:
    row = {"premise": "a", "hypothesis": "b", "gold": 2}
    mapping = {"text": "premise", "text_pair": "hypothesis", "label": "gold"}
    assert normal("labelled", row, mapping) == {"text": "a", "text_pair": "b", "label": '"2"'}
    nested = {"translation": {"en": "a", "de": "b"}}
    assert normal("pairs", nested, {"source": "translation.en", "target": "translation.de"}) == {
        "source": "a",
        "target": "b",
    }


def test_what_is_answered_decides_the_holdout_and_not_the_answer() -> None:
    labelled = [normal("labelled", {"text": "a", "label": label}) for label in ("x", "y")]
    assert content("labelled", labelled[0]) == content("labelled", labelled[1])
    assert content("labelled", labelled[0]) != content("labelled", labelled[0] | {"text_pair": "b"})
    pairs = [{"source": "a", "target": target} for target in ("b", "c")]
    assert content("pairs", pairs[0]) == content("pairs", pairs[1])
    assert num_bytes("pairs", {"source": "ä", "target": "bcd"}) == 5
    assert num_bytes("labelled", {"text": "ä", "text_pair": None, "label": '"xyz"'}) == 2


def test_content_is_what_a_model_sees() -> None:
    one, two = ({"prompt": [USER], "columns": columns} for columns in ('{"a": 1}', '{"a": 2}'))
    assert content("prompt", one) == content("prompt", two)
    assert content("text", {"text": "a"}) != content("text", {"text": "b"})
