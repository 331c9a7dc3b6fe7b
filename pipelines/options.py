"""What each verb of the command line takes."""

import argparse
from pathlib import Path

LOOKING = ("check", "plan", "show", "report", "export", "ledger", "verify")
"""Verbs that build nothing."""
EXPORT_FORMATS = "stock: a class of transformers, read without code; ours: with its code (default: stock)"


def add_options(parser: argparse.ArgumentParser, verb: str) -> None:
    """Those of one verb."""
    if verb == "schema":
        return
    if verb == "new-model":
        parser.add_argument("--name", required=True, help="of the module: thing")
        parser.add_argument(
            "--to", type=_folder, metavar="FOLDER", default=Path("my_models"), help="default: my_models"
        )
        return
    if verb == "inspect":
        parser.add_argument("data", help="a file, a folder or a pattern in quotes: 'my_text/*.txt'")
        parser.add_argument("--chat-template", type=Path, metavar="FILE", help="default: chatml")
        parser.add_argument("--json", action="store_true", help="for machines")
        return
    parser.add_argument("--store", type=_folder, default=Path("artifacts"), help="where finished work is kept")
    if verb == "clean":
        parser.add_argument("--yes", action="store_true", help="remove without asking")
        return
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("recipe", type=Path, nargs="?" if verb == "verify" else None, help="recipes/demo.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="wins over the file")
    parser.add_argument("--launch", metavar="NAME", help="a file of recipes/accelerate, instead of the recipe's own")
    if verb == "export":
        parser.add_argument("--stage", metavar="NAME", required=True, help="whose model")
        parser.add_argument("--to", type=_folder, metavar="FOLDER", required=True, help="a new or empty folder")
        parser.add_argument("--format", choices=("stock", "ours"), default="stock", help=EXPORT_FORMATS)
    if verb == "ledger":
        parser.add_argument("--stage", metavar="NAME", default="pretrain", help="default: pretrain")
        parser.add_argument("--step", type=int, metavar="N", required=True, help="1 is the first")
    if verb in LOOKING:
        return
    parser.add_argument("--rebuild", action="store_true", help="also make again what was costly to make")
    if verb == "run":
        parser.add_argument("--stage", metavar="NAME", help="only this stage, and what it needs")


def _folder(text: str) -> Path:
    """Empty, as of a variable that is not set, it would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("needs a folder's name")
    return Path(text)
