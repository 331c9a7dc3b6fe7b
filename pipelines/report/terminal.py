"""The score table in a terminal."""

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from pipelines.report.collect import Report
from pipelines.report.table import LEGEND, Cell, Table, tables
from pipelines.report.text import visible

COLOURS = {"▲": "green", "▼": "red", "": ""}


def print_summary(report: Report, console: Console | None = None) -> None:
    """Print the scores; a run without any says so."""
    console = console or Console(highlight=False)
    found = tables(report)
    for table in found:
        console.print(_rich(table))
    console.print(Text(LEGEND if found else "no scores yet: no evaluate stage has finished", style="dim"))


def _rich(table: Table) -> RichTable:
    shown = RichTable(title=Text(table.title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    shown.add_column("")
    for column in table.columns:
        shown.add_column(Text(column), justify="right")
    for row in table.rows:
        shown.add_row(Text(visible(f"{row.task}  {row.metric}")), *map(_cell, row.cells))
    return shown


def _cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text("–", style="dim")
    return Text.assemble((cell.text, "bold"), " ", (cell.stderr, "dim"), " ", (cell.mark or " ", COLOURS[cell.mark]))
