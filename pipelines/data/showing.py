"""What `inspect` says of data: as text for people, or as JSON."""

import json
import re
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.data.corpus import row_keys
from pipelines.data.formats import REASONS, Row, num_bytes
from pipelines.data.guesses import Tried, best_guess, column_kinds
from pipelines.data.inspection import Found, Sample, Settings, find_files, settle
from pipelines.data.layouts import LEFT_OVER
from pipelines.data.template import SPECIAL, Template

SHOWN = 10
LONGEST_TEXT = 300
"""Characters of each text that are shown."""
TRAINED = ("⟦", "⟧")
"""Around what a model would be trained to say."""


def inspect(data: str, folder: Path, template: Path) -> tuple[str, dict[str, Any]]:
    """(text, the same as JSON) about the files that a path, folder or pattern means."""
    found = find_files(data, folder)
    settings, sample = settle(found)
    tried = best_guess(sample.items)
    facts = _facts(found, settings, sample, tried)
    facts["data"] = recipe_lines(found, settings, tried, facts["copies"])
    shown = (
        [tried.rows[i * (len(tried.rows) - 1) // (SHOWN - 1)] for i in range(SHOWN)]
        if len(tried.rows) > SHOWN
        else tried.rows
    )
    maker = Template(template.read_text(encoding="utf-8"), name=str(template))
    facts["rows_shown"] = [show_row(tried.guess.format, row, maker) for row in shown]
    return "\n".join(_text(facts)), facts


def _facts(found: Found, settings: Settings, sample: Sample, tried: Tried) -> dict[str, Any]:
    rows = [item.row for item in sample.items if item.row is not None]
    sizes = sorted(num_bytes(tried.guess.format, row) for row in tried.rows)
    at = {"median": 50, "95 %": 95, "max": 100}
    return {
        "files": [str(path) for path in found.paths],
        "not_read": list(found.others),
        "kind": found.kind,
        "bytes": found.num_bytes,
        "rows": sample.num_rows,
        "rows_exact": sample.is_exact,
        "rows_looked_at": len(sample.items),
        "encoding": _encoding(sample),
        "columns": column_kinds(rows),
        "format": tried.guess.format,
        "layout": tried.guess.layout,
        "why": "; ".join(filter(None, [tried.guess.why, settings.why])),
        "usable": len(tried.rows),
        "dropped": dict(tried.reasons.most_common()),
        "left_over": dict(tried.joined.left_over.most_common()),
        "copies": len(tried.rows) - len({row_keys(tried.guess.format, row)[0] for row in tried.rows}),
        "lengths": {name: sizes[-(-percent * len(sizes) // 100) - 1] for name, percent in at.items()} if sizes else {},
    }


def _encoding(sample: Sample) -> str:
    """Of text files: what their first bytes are."""
    whole = b"".join(sample.heads)
    if not whole:
        return ""
    said = Counter(item.reason for item in sample.items)["not_utf8"]
    name = "ASCII" if whole.isascii() else "UTF-8"
    parts = [f"{name}, but {said} rows are not UTF-8" if said else name]
    if any(head.startswith(b"\xef\xbb\xbf") for head in sample.heads):
        parts.append("with a byte order mark")
    if b"\r\n" in whole:
        parts.append("lines end with \\r\\n")
    return ", ".join(parts)


# --- lines for a recipe -------------------------------------------------------------------------------------------


def recipe_lines(found: Found, settings: Settings, tried: Tried, copies: int = 0) -> str:
    """An entry of `data` that reads these files, with absolute paths."""
    guess = tried.guess
    fields: dict[str, Any] = {"files": found.patterns[0] if len(found.patterns) == 1 else list(found.patterns)}
    fields |= {"format": guess.format} if guess.format != "text" else {}
    fields |= {"layout": guess.layout} if guess.layout else {}
    fields |= {"columns": dict(guess.columns)} if guess.columns else {}
    fields |= {"column_names": list(settings.column_names)} if settings.column_names else {}
    fields |= {"quoting": settings.quoting} if settings.quoting != "minimal" else {}
    fields |= {"separator": settings.separator} if settings.separator else {}
    lines = ["data:", f"  {_name(found)}:"]
    lines += [f"    {name}: {_yaml(value)}" for name, value in fields.items()]
    if copies:
        lines.append(f"    # deduplicate: true  # of those looked at: copies {copies}")
    if tried.rows and tried.share < 0.99:
        reasons = ", ".join(f"{reason} {count}" for reason, count in tried.reasons.most_common(3))
        lines.append(f"    # max_dropped: {1 - tried.share + 0.005:.2f}  # of those looked at: {reasons}")
    return "\n".join(lines)


def _name(found: Found) -> str:
    path = found.paths[0] if len(found.paths) == 1 else Path(found.patterns[0].split("*")[0].rstrip("/"))
    plain = unicodedata.normalize("NFKD", path.name.split(".")[0].lower()).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9_-]+", "-", plain).strip("-_")
    return name[:40] or "mine"


_NO_TEXT = ("yes", "no", "on", "off", "true", "false", "null", "y", "n")


def _yaml(value: Any) -> str:
    """JSON is YAML; bare where that reads the same."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_yaml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    is_plain = re.fullmatch(r"[a-zA-Z/][\w./-]*", value) and value.lower() not in _NO_TEXT
    return value if is_plain else json.dumps(value, ensure_ascii=False)


# --- rows ---------------------------------------------------------------------------------------------------------


def show_row(format: str, row: Row, template: Template) -> str:
    """A row as text; what is trained on in conversations stands between ⟦ and ⟧."""
    eos = SPECIAL["eos_token"]
    if format == "text":
        return f"{_short(row['text'])}{eos}"
    if format == "chat":
        return _pieces(template, row["messages"])
    if format == "prompt":
        return _pieces(template, row["prompt"])
    if format == "preference":
        prompt = _pieces(template, row["prompt"])
        sides = (
            f"{side}: {TRAINED[0]}{_short(row[side][0]['content'])}{TRAINED[1]}" for side in ("chosen", "rejected")
        )
        return "\n".join([prompt, *sides])
    if format == "labelled":
        pair = f"\n+ {_short(row['text_pair'])}" if row["text_pair"] is not None else ""
        return f"{_short(row['text'])}{pair}\n-> {row['label']}"
    return f"{_short(row['source'])}\n-> {_short(row['target'])}"


def _pieces(template: Template, messages: Sequence[Any]) -> str:
    shown = ""
    is_open = False
    for piece in template.pieces(messages):
        if piece.is_trained != is_open:
            shown += TRAINED[0] if piece.is_trained else TRAINED[1]
            is_open = piece.is_trained
        shown += piece.text if piece.is_token else _short(piece.text)
    return shown + (TRAINED[1] if is_open else "")


_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def _short(text: str) -> str:
    """The beginning and the end of a text, with the characters spelled that a terminal would obey or hide."""
    if len(text) > LONGEST_TEXT:
        left_out = len(text) - LONGEST_TEXT
        text = f"{text[: LONGEST_TEXT * 2 // 3]} [... {left_out:,} characters ...] {text[-LONGEST_TEXT // 3 :]}"
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


# --- text ---------------------------------------------------------------------------------------------------------


def _text(facts: dict[str, Any]) -> Iterator[str]:
    files = facts["files"]
    yield f"files      {files[0]}{f' and {len(files) - 1:,} more' if len(files) > 1 else ''}"
    yield "kind       " + ", ".join(filter(None, [facts["kind"][1:], f"{facts['bytes']:,} bytes", facts["encoding"]]))
    if facts["not_read"]:
        yield f"           beside them, not read: {_some(facts['not_read'])}"
    about = "" if facts["rows_exact"] else "about "
    rows = f"more than {facts['rows_looked_at']:,}" if facts["rows"] is None else f"{about}{facts['rows']:,}"
    looked = "" if facts["rows"] == facts["rows_looked_at"] else f" (looked at {facts['rows_looked_at']:,})"
    yield f"rows       {rows}{looked}"
    yield f"columns    {', '.join(f'{_short(name)} ({kind})' for name, kind in facts['columns'].items()) or 'none'}"
    layout = f", layout {facts['layout']}" if facts["layout"] else ""
    yield f"format     {facts['format']}{layout}: {_short(facts['why'])}"
    yield f"usable     {facts['usable']:,}"
    for kind, reasons in (("dropped", REASONS), ("left_over", LEFT_OVER)):
        for reason, count in facts[kind].items():
            yield f"           {kind.replace('_', ' ')}: {reason} {count:,} ({reasons[reason]})"
    if facts["copies"]:
        yield f"           of them copies of others: {facts['copies']:,}"
    if facts["lengths"]:
        yield f"bytes      {', '.join(f'{name} {size:,}' for name, size in facts['lengths'].items())} of a row"
    trained = f" ({TRAINED[0]} {TRAINED[1]}: what is trained on)" if facts["format"] in ("chat", "preference") else ""
    yield f"\n{len(facts['rows_shown'])} rows as a model would see them{trained}:"
    for number, row in enumerate(facts["rows_shown"], 1):
        yield textwrap.indent(row, "   | ", lambda line: True).replace("   | ", f"{number:>3}| ", 1)
    if facts["usable"]:
        yield f"\nFor a recipe:\n\n{facts['data']}"
    else:
        yield "\nNo row can be used as it is; columns: {our name: their name} says where its text or its answers are."


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(Path(name).name for name in names[:5]) + more
