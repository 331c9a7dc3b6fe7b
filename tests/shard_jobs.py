"""Work in shards for tests: parts that count, fail or die, and the data and tokens stages over many files."""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiny_recipe import chain, planned

from pipelines.data.shards import Engine, Work, make_shards
from pipelines.errors import DataError
from pipelines.recipe.launch import Launch
from pipelines.run.launcher import light_settings
from pipelines.stages import data, tokenizer, tokens
from pipelines.stages.base import StageContext
from pipelines.store.durable import digest


def count(part: Mapping[str, Any], folder: Path) -> None:
    """A line for each call, and what the part says to do."""
    with Path(part["calls"]).open("a") as calls:
        calls.write(f"{part['number']}\n")
    (folder / "half").write_text("half of it")
    if part["number"] in part.get("fail", ()):
        raise DataError(f"part {part['number']} is bad")
    if part["number"] in part.get("die", ()):
        os.kill(os.getpid(), signal.SIGKILL)
    if part["number"] in part.get("die_once", ()) and not (mark := Path(part["calls"]).with_name("died")).exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "made").write_text(str(part["number"] ** 2))


def threads(part: Mapping[str, Any], folder: Path) -> None:
    """What the worker's libraries are told of threads."""
    (folder / "threads").write_text(os.environ.get("TOKENIZERS_PARALLELISM", ""))


def parts(root: Path, number: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"number": n, "calls": str(root / "calls"), **fields} for n in range(number)]


def make(
    root: Path, parts: list[dict[str, Any]], *, work: Work = count, engine: Engine = "local", workers: int = 1
) -> list[Path]:
    return make_shards(work, parts, root / "parts", engine=engine, workers=workers, record=root)


def made(folders: list[Path]) -> list[int]:
    return [int((folder / "made").read_text()) for folder in folders]


def build(root: Path, **launch: Any) -> dict[str, str]:
    """Digests of what the data and tokens stages make of many files."""
    root.mkdir()
    for number in range(12):
        text = "\n\n".join(f"Story {number} of {line}. {'It goes on. ' * (line % 5)}" for line in range(40))
        (root / f"tales-{number:02d}.txt").write_text(text + ("\n\n\x00bad\n" if number % 3 == 0 else ""))
    recipe = chain()
    recipe["data"]["tales"] = {"files": "tales-*.txt", "separator": "blank_line", "holdout": 0.2, "max_dropped": 0.5}
    recipe["data"]["tales"]["quality"] = [{"kind": "length", "min_words": 6}]
    recipe["stages"]["tokenizer"]["data"] = "tales"
    plan = planned(root, recipe)
    folders: dict[str, Path] = {}
    digests = {}
    for name, stage in (("data-tales", data), ("tokenizer", tokenizer), ("tokens-tales", tokens)):
        job = plan.by_name[name]
        settings = light_settings(Launch(**launch))
        inputs = {role: folders[item.job] for role, item in job.inputs.items()}
        ctx = StageContext(job=job, inputs=inputs, workdir=root / name, launch=settings)
        for folder in (ctx.output, ctx.checkpoints, ctx.record):
            folder.mkdir(parents=True)
        stage.run(ctx)
        folders[name] = ctx.output
        digests |= {f"{name}/{path.name}": digest(path) for path in sorted(ctx.output.iterdir())}
        if name == "data-tales":
            digests["dropped"] = json.dumps(
                [json.loads(line)["reason"] for line in (ctx.record / "dropped.jsonl").read_text().splitlines()]
            )
            digests["parts"] = str(len(list((ctx.checkpoints / "parts/rows").iterdir())))
    return digests
