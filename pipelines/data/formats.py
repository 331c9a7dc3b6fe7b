"""A row of a source into a row of ours: text, chat, preference, prompt, labelled or pairs; or the reason why not."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
Message = dict[str, str]

REASONS: Mapping[str, str] = {
    # of the file
    "empty_file": "the file holds nothing",
    "too_long": "longer than 64 MiB (a web page: than 2 MB)",
    "not_utf8": "not UTF-8 text",
    "invalid_json": "not valid JSON",
    "duplicate_key": "two values for one name",
    "too_deep": "JSON nested too deeply",
    "not_an_object": "JSON, but no object",
    "invalid_csv": "quotes or line ends that CSV does not allow; if cells hold quotes as they are, quoting: none",
    "wrong_number_of_cells": "more or fewer cells than the header",
    "no_main_text": "a web page without a main text",
    # of the row
    "missing_column": "a column is missing",
    "empty": "no text",
    "not_text": "not a string where text belongs",
    "nul": "a NUL character in the text",
    "lone_surrogate": "half a character (a lone surrogate) in the text",
    "no_messages": "no list of messages",
    "unknown_role": "a role other than system, user and assistant",
    "tool_call": "a call of a tool, which chat templates here do not write",
    "weight_zero": "an answer that is not to be trained on (weight: 0), which is not done turn by turn",
    "wrong_order": "turns that do not alternate from the user's first one",
    "no_assistant_turn": "nothing that an assistant says",
    "ends_without_answer": "the last turn is not the assistant's",
    "ends_without_question": "the last turn is not the user's",
    "empty_answer": "an answer without text",
    "chosen_equals_rejected": "chosen and rejected are the same",
    "no_common_prompt": "chosen and rejected do not answer the same prompt",
    "several_turns": "a completion of more than one turn",
    "no_score": "no score",
    "not_a_score": "a score that is neither a finite number nor true or false",
    "duplicate_id": "a message_id that another message has",
    "no_label": "no label",
    "not_a_label": "a label that is neither text, a finite number, true or false, nor a list of names",
    "empty_side": "a pair with an empty side",
    "also_in_train": "the same content as a training row",
    "also_in_holdout": "the same content as a row of the holdout",
}
"""Why a row is not used. The keys stand in metrics, as `dropped_<reason>`."""


class Unusable(Exception):
    """The row cannot be used; `reason` is a key of REASONS."""

    def __init__(self, reason: str):
        super().__init__(REASONS[reason])
        self.reason = reason


Normalise = Callable[[Row], Row]


def normaliser(format: str, columns: Mapping[str, str]) -> Normalise:
    """A function from a source's row to ours; it raises Unusable. `columns`: our name -> the name in the data."""
    convert = _FORMATS[format]
    if not columns:
        return convert
    return lambda row: convert(renamed(row, columns))


def needed(format: str, columns: Mapping[str, str]) -> str:
    """The columns that would do for a format or a layout, for messages."""
    if columns:
        wanted = ", ".join(f"{theirs!r} (for {ours})" for ours, theirs in columns.items())
        return f"{wanted}; and as {format} data it needs {_NEEDS[format]}"
    return _NEEDS[format]


_NEEDS: Mapping[str, str] = {
    "text": "'text'",
    "chat": "'messages', or 'prompt' and 'completion', or 'conversations', or 'instruction' and 'output'",
    "preference": "'chosen' and 'rejected', with 'prompt' or as whole conversations",
    "prompt": "'prompt', or 'instruction'",
    "labelled": "'text' and 'label', with 'text_pair' where two texts are judged together",
    "pairs": "'source' and 'target'",
    "tree": "'message_id', 'parent_id', 'role', 'text' and 'rank', or a tree of 'replies'",
    "scored": "'prompt' and 'completion', with 'score' or 'label'",
}


def content(format: str, row: Row) -> str:
    """What a model sees of a row of ours, as canonical JSON: rows that agree in it are the same row."""
    shown = [row[column] for column in CONTENT[format]]
    return json.dumps(shown, sort_keys=True, separators=(",", ":"))


def num_bytes(format: str, row: Row) -> int:
    """UTF-8 bytes of all that is said in a row of ours."""
    return sum(len(text.encode()) for text in said(format, row))


def said(format: str, row: Row) -> list[str]:
    """All texts of a row of ours, in their order."""
    if format in _PLAIN:
        return [row[column] for column in _PLAIN[format] if row[column] is not None]
    return [turn["content"] for column in CONTENT[format] for turn in row[column]]


CONTENT: Mapping[str, Sequence[str]] = {
    "text": ("text",),
    "chat": ("messages",),
    "preference": ("prompt", "chosen", "rejected"),
    "prompt": ("prompt",),
    "labelled": ("text", "text_pair"),
    "pairs": ("source",),
}
"""The columns by which rows of ours are the same. Prompt data have `columns` too, all that the source says beside the
prompt. A label and a target are no part of it: what they answer must not be in training and in the holdout."""
_PLAIN: Mapping[str, Sequence[str]] = {
    "text": ("text",),
    "labelled": ("text", "text_pair"),
    "pairs": ("source", "target"),
}
"""The columns of plain text."""


def renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """A row by our names; raises Unusable where a column is not there."""
    taken = set(columns.values())
    return {name: value for name, value in row.items() if name not in taken} | {
        ours: column(row, theirs) for ours, theirs in columns.items()
    }


def column(row: Row, name: str) -> Any:
    """A column, or a place inside one: `turns.0`, `instances.0.output`. Raises Unusable where it is not there."""
    if name in row:
        return row[name]
    value: Any = row
    for step in name.split("."):
        if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict) and step in value:
            value = value[step]
        else:
            raise Unusable("missing_column")
    return value


# --- text -----------------------------------------------------------------------------------------------------------


def _text(row: Row) -> Row:
    return {"text": _string(_present(row, "text"))}


def _present(row: Row, name: str) -> Any:
    if name not in row:
        raise Unusable("missing_column")
    return row[name]


def _string(value: Any, empty: str = "empty") -> str:
    if value is None:
        raise Unusable(empty)
    if not isinstance(value, str):
        raise Unusable("not_text")
    if not value or value.isspace():
        raise Unusable(empty)
    if "\0" in value:
        raise Unusable("nul")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unusable("lone_surrogate") from None
    return value


# --- chat -----------------------------------------------------------------------------------------------------------


def _chat(row: Row) -> Row:
    messages = _conversation(row)
    if not any(message["role"] == "assistant" for message in messages):
        raise Unusable("no_assistant_turn")
    if _alternating(messages)[-1]["role"] != "assistant":
        raise Unusable("ends_without_answer")
    return {"messages": messages}


def _conversation(row: Row) -> list[Message]:
    """Messages of a row in any of the four customs; where a row follows several, the first that is filled counts."""
    for name in ("messages", "conversations"):
        if row.get(name) is not None:
            return _with_system(row, _messages(row[name]))
    for question, answer in (("prompt", "completion"), ("instruction", "output")):
        if row.get(question) is not None and answer in row:
            return [*asked(row), *_side(row[answer])]
    known = {"messages", "conversations", "completion", "output"} & row.keys()
    raise Unusable("no_messages" if known else "missing_column")


ROLES: Mapping[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}


def _messages(value: Any) -> list[Message]:
    """role and content, or from and value as ShareGPT has it."""
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        raise Unusable("no_messages")
    messages = []
    for message in value:
        role = ROLES.get(str(message.get("role") or message.get("from")))
        if role is None:
            raise Unusable("unknown_role")
        if message.get("tool_calls"):
            raise Unusable("tool_call")
        if role == "assistant" and message.get("weight") == 0:
            raise Unusable("weight_zero")
        said = message["content"] if message.get("content") is not None else message.get("value")
        messages.append({"role": role, "content": _said(said, "empty_answer" if role == "assistant" else "empty")})
    return messages


def _with_system(row: Row, messages: list[Message]) -> list[Message]:
    """What a system column says comes first, unless the messages bring a system turn of their own."""
    said = row.get("system")
    if not isinstance(said, str) or not said.strip() or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": _string(said)}, *messages]


def _said(value: Any, empty: str) -> str:
    """Text, or a list of parts that are all text."""
    if isinstance(value, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        value = "".join(_string(part.get("text"), empty) for part in value)
    return _string(value, empty)


def _alternating(messages: list[Message]) -> list[Message]:
    """The same messages; raises where the turns are not (system), user, assistant, user, ..."""
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    if not turns or any(turn["role"] != ("user", "assistant")[i % 2] for i, turn in enumerate(turns)):
        raise Unusable("wrong_order")
    return messages


def asked(row: Row) -> list[Message]:
    """The prompt column, as messages; or an Alpaca instruction, with its input and history where there are any."""
    if row.get("prompt") is None and row.get("instruction") is not None:
        instruction, extra = _string(row["instruction"]), row.get("input")
        is_bare = extra is None or (isinstance(extra, str) and not extra.strip())
        both = instruction if is_bare else f"{instruction}\n\n{_string(extra)}"
        return _with_system(row, [*_history(row.get("history")), {"role": "user", "content": both}])
    value = _present(row, "prompt")
    messages = _messages(value) if isinstance(value, list) else [{"role": "user", "content": _string(value)}]
    return _with_system(row, messages)


def _history(value: Any) -> list[Message]:
    """Earlier turns, as [question, answer] each."""
    if value is not None and not (isinstance(value, list) and all(isinstance(turn, list) for turn in value)):
        raise Unusable("no_messages")
    messages: list[Message] = []
    for turn in value or []:
        if len(turn) != 2:
            raise Unusable("no_messages")
        messages.append({"role": "user", "content": _string(turn[0])})
        messages.append({"role": "assistant", "content": _string(turn[1], "empty_answer")})
    return messages


def _side(value: Any) -> list[Message]:
    """A completion: a string, a message, or messages."""
    if isinstance(value, list | dict):
        return _messages(value if isinstance(value, list) else [value])
    return [{"role": "assistant", "content": _string(value, "empty_answer")}]


# --- preference and prompt ------------------------------------------------------------------------------------------


def _preference(row: Row) -> Row:
    chosen, rejected = (_written_out(row, _present(row, name)) for name in ("chosen", "rejected"))
    if chosen == rejected:
        raise Unusable("chosen_equals_rejected")
    if chosen[0]["role"] != "assistant" or rejected[0]["role"] != "assistant":
        # Whole conversations say their prompt themselves, whatever stands in a prompt column beside them.
        shared = _shared(chosen, rejected)
        prompt, chosen, rejected = _with_system(row, chosen[:shared]), chosen[shared:], rejected[shared:]
    else:
        prompt = asked(row)
    if len(chosen) != 1 or len(rejected) != 1:
        raise Unusable("several_turns")
    return {"prompt": _question(prompt), "chosen": chosen, "rejected": rejected}


_SPEAKER = re.compile(r"(?:^|\n)\n(Human|Assistant):")


def _written_out(row: Row, value: Any) -> list[Message]:
    """A side; without a prompt beside it also a conversation in one string, as hh-rlhf has it: each turn begins with an
    empty line and `Human:` or `Assistant:`."""
    has_prompt = row.get("prompt") is not None or row.get("instruction") is not None
    if has_prompt or not isinstance(value, str) or not _SPEAKER.match(value):
        return _side(value)
    roles, said = _SPEAKER.split(value)[1::2], _SPEAKER.split(value)[2::2]
    turns = zip(roles, said, strict=True)
    return _messages([{"role": role.lower(), "content": text.strip()} for role, text in turns])


def _shared(chosen: list[Message], rejected: list[Message]) -> int:
    """How many messages both begin with; each must go on with an answer of its own."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    answers = [*chosen[shared : shared + 1], *rejected[shared : shared + 1]]
    if not shared or [answer["role"] for answer in answers] != ["assistant", "assistant"]:
        raise Unusable("no_common_prompt")
    return shared


def _question(messages: list[Message]) -> list[Message]:
    if _alternating(messages)[-1]["role"] != "user":
        raise Unusable("ends_without_question")
    return messages


def _prompt(row: Row) -> Row:
    used = {"prompt", "system"} if row.get("prompt") is not None else {"instruction", "input", "history", "system"}
    others = {name: value for name, value in row.items() if name not in used}
    return {"prompt": _question(asked(row)), "columns": json.dumps(others, sort_keys=True, default=str)}


# --- labelled and pairs ---------------------------------------------------------------------------------------------


def _labelled(row: Row) -> Row:
    text, pair = _string(_present(row, "text")), row.get("text_pair")
    pair = None if pair is None else _string(pair, "empty_side")
    return {"text": text, "text_pair": pair, "label": json.dumps(_label(_present(row, "label")))}


def _label(value: Any) -> str | float | list[str]:
    """A class's name; a number to predict; or the names of all classes that apply, sorted."""
    if isinstance(value, list):
        return sorted({_class_name(name) for name in value})
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Unusable("not_a_label")
        return value
    return _class_name(value)


def _class_name(value: Any) -> str:
    """Whole numbers and truth values name classes too: `3`, `true`."""
    if value is None or value == "":
        raise Unusable("no_label")
    if isinstance(value, bool | int):
        return json.dumps(value)
    if not isinstance(value, str):
        raise Unusable("not_a_label")
    return _string(value, "no_label")


def _pairs(row: Row) -> Row:
    return {side: _string(_present(row, side), "empty_side") for side in ("source", "target")}


_FORMATS: Mapping[str, Normalise] = {
    "text": _text,
    "chat": _chat,
    "preference": _preference,
    "prompt": _prompt,
    "labelled": _labelled,
    "pairs": _pairs,
}
