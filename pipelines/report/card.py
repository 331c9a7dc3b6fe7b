"""The report as Markdown: what fits into a mail or beside the code."""

import re

from pipelines.report.collect import Report
from pipelines.report.figures import seconds_text
from pipelines.report.table import LEGEND, Table, tables
from pipelines.report.text import visible

_MARKUP = re.compile(r"([\\`*_{}\[\]<>()!|~&$])")


def markdown(report: Report) -> str:
    """Scores, stages and data; text of models and data is escaped."""
    parts = [f"# {_plain(report.name)}", f"Recipe: {_plain(report.recipe_file)}"]
    for table in tables(report):
        parts += [f"## Scores: {table.title.lower()}", _scores(table)]
    if report.scores:
        parts.append(LEGEND)
    parts += ["## Stages", _stages(report)]
    if report.tokenizers:
        parts += ["## Tokenizer", _tokenizers(report)]
    if report.data:
        parts += ["## Data", _data(report)]
    if report.contamination:
        parts += ["## Contamination", _contamination(report)]
    return "\n\n".join(parts) + "\n"


def _scores(table: Table) -> str:
    rows = []
    for row in table.rows:
        cells = [f"{cell.text} {cell.stderr} {cell.mark}".strip() if cell else "–" for cell in row.cells]
        rows.append([_plain(row.task), _plain(row.metric), row.note, *cells])
    return _table(["task", "metric", "items", *map(_plain, table.columns)], rows)


def _stages(report: Report) -> str:
    rows = [
        [
            _plain(stage.name),
            stage.kind,
            "done" if stage.state == "complete" else f"not run ({stage.state})",
            seconds_text(stage.wall_seconds),
            f"{stage.tokens_per_second:,.0f}" if stage.tokens_per_second else "",
        ]
        for stage in report.stages
    ]
    return _table(["stage", "kind", "state", "wall time", "tokens/s"], rows)


def _tokenizers(report: Report) -> str:
    rows = [
        [
            _plain(one.name),
            f"{one.vocab_size:,}" + (f" ({one.asked:,} asked)" if one.asked else ""),
            f"{one.bytes_per_token:.2f}",
            f"{one.tokens_per_word:.2f}",
            f"{one.unused_share:.0%}",
            f"{one.failures:,} of {one.texts:,}",
            f"{one.embedding_parameters or 0:,}",
        ]
        for facts in report.tokenizers
        for one in facts.vocabularies
    ]
    head = ["tokenizer", "entries", "bytes/token", "tokens/word", "unused", "changed texts", "embedding parameters"]
    return _table(head, rows)


def _data(report: Report) -> str:
    rows = [
        [_plain(d.name), d.format, f"{d.rows_in:,}", f"{d.rows_used:,}", f"{d.dropped:,}", f"{d.tokens or 0:,}"]
        for d in report.data
    ]
    return _table(["dataset", "format", "rows in", "used", "dropped", "training tokens"], rows)


def _contamination(report: Report) -> str:
    rows = [
        [
            _plain(one.data),
            _plain(task.task),
            f"{task.found:,} of {task.questions:,}",
            f"{task.too_short:,}",
            f"{task.documents:,} ({one.fate})" if task.documents else "0",
        ]
        for one in report.contamination
        for task in one.tasks
    ]
    return _table(["dataset", "benchmark", "questions found", "too short", "training rows"], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return _MARKUP.sub(r"\\\1", " ".join(visible(text).split()))
