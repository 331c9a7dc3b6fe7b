"""The questions of a recipe's benchmarks as an artifact, read without what it takes to gather them."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FILE, INFO = "questions.parquet", "info.json"
SCHEMA = pa.schema([("task", pa.string()), ("question", pa.int64()), ("texts", pa.list_(pa.large_string()))])


@dataclass(frozen=True)
class Questions:
    """All questions of a recipe, those of a task one after the other."""

    tasks: Mapping[str, Sequence[Sequence[str]]]
    """Task -> the texts of each question."""
    holdouts: Mapping[str, str]
    """Task -> digest of the holdout that it asks, where it asks one."""
    documents: Collection[str] = ()
    """Tasks whose questions are whole documents."""

    def save(self, folder: Path) -> None:
        """Write what `load` reads."""
        rows = [
            {"task": task, "question": number, "texts": list(texts)}
            for task, asked in self.tasks.items()
            for number, texts in enumerate(asked)
        ]
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / FILE, compression="zstd")
        info = {"questions": {task: len(asked) for task, asked in self.tasks.items()}, "holdouts": dict(self.holdouts)}
        info["documents"] = list(self.documents)
        (folder / INFO).write_text(json.dumps(info, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "Questions":
        info = json.loads((folder / INFO).read_text())
        tasks: dict[str, list[list[str]]] = {task: [] for task in info["questions"]}
        table = pq.read_table(folder / FILE, columns=["task", "texts"])
        for task, texts in zip(table.column("task").to_pylist(), table.column("texts").to_pylist(), strict=True):
            tasks[task].append(texts)
        return cls(tasks, info["holdouts"], info["documents"])

    @cached_property
    def texts(self) -> list[Sequence[str]]:
        """Of all questions, numbered through."""
        return [texts for asked in self.tasks.values() for texts in asked]

    @cached_property
    def task_of(self) -> list[int]:
        """The number of each question's task."""
        return [number for number, asked in enumerate(self.tasks.values()) for _ in asked]


def holdout_digest(folder: Path) -> str:
    """Of the holdout of a data artifact, which cleaning leaves as it is."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("holdout-*.parquet")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
