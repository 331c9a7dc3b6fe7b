"""Benchmarks from recipes/tasks: a YAML file of ours or of lm-eval's kind becomes an lm-eval task."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from pipelines.data import microworld
from pipelines.errors import DataError
from pipelines.recipe.task_files import OURS, read_task

SHOTS = 64
"""Items of a built-in task that only ever serve as worked examples."""


def _choice_items(name: str) -> Callable[[int, int], list[dict[str, Any]]]:
    def make(size: int, seed: int) -> list[dict[str, Any]]:
        items = microworld.task_items(name, size, seed)
        return [{"prompt": i["prompt"], "options": i["options"], "answer": i["answer"]} for i in items]

    return make


def _sentence_items(size: int, seed: int) -> list[dict[str, Any]]:
    """The target is one sentence and generation stops at its full stop."""
    items = microworld.task_items("generation", size, seed)
    return [{"prompt": i["prompt"], "target": i["target"].strip().removesuffix(".")} for i in items]


def _chat_items(size: int, seed: int) -> list[dict[str, Any]]:
    items = microworld.chat_items(size, seed)
    return [{"prompt": i["messages"][-1]["content"], "target": i["target"].strip()} for i in items]


BUILTIN: Mapping[str, Callable[[int, int], list[dict[str, Any]]]] = {
    "microworld/comprehension": _choice_items("comprehension"),
    "microworld/reasoning": _choice_items("reasoning"),
    "microworld/generation": _sentence_items,
    "microworld/chat_answers": _chat_items,
}
"""Item generators: (size, seed) -> rows."""


class OneSeparatorTask(ConfigurableTask):
    """A target with and without its own leading space is joined to its prompt by exactly one separator."""

    def __init__(self, config: dict[str, Any], rows: datasets.DatasetDict | None = None):
        """`rows` take the place of the dataset that the config names."""
        self._rows = rows
        super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
        if self._rows is None:
            super().download(dataset_kwargs)
        else:
            self.dataset = self._rows

    def doc_to_choice(self, doc: Any, doc_to_choice: Any = None) -> list[str]:
        return [self._bare(choice) for choice in super().doc_to_choice(doc, doc_to_choice)]

    def doc_to_target(self, doc: Any, doc_to_target: Any = None) -> Any:
        target = super().doc_to_target(doc, doc_to_target)
        if isinstance(target, list):
            return [self._bare(one) if isinstance(one, str) else one for one in target]
        return self._bare(target) if isinstance(target, str) else target

    def process_results(self, doc: Any, results: Any) -> dict[str, Any]:
        """A completion begins with the separator, which belongs to the target no more than to the prompt."""
        if self.OUTPUT_TYPE == "generate_until":
            results = [self._bare(result) if isinstance(result, str) else result for result in results]
        return super().process_results(doc, results)

    def construct_requests(
        self, doc: Any, ctx: Any, metadata: Any = None, apply_chat_template: bool = False, chat_template: Any = None
    ) -> Any:
        """lm-eval gives `loglikelihood` no delimiter, and puts one before a target that has no prompt."""
        made = super().construct_requests(
            doc, ctx, metadata=metadata, apply_chat_template=apply_chat_template, chat_template=chat_template
        )
        for request in made if isinstance(made, list) else [made]:
            if request.request_type == "loglikelihood":
                request.arguments = self._joined(request, in_chat=apply_chat_template)
        return made

    def _joined(self, request: Instance, *, in_chat: bool) -> tuple[str, str]:
        context, target = request.arguments[:2]
        delimiter = self.config.target_delimiter
        if not context or in_chat or (context[-1].isspace() and delimiter.isspace()):
            return context, target.removeprefix(delimiter)
        return context, target if target.startswith(delimiter) else delimiter + target

    def _bare(self, text: str) -> str:
        delimiter = self.config.target_delimiter
        return text.lstrip() if delimiter and delimiter[-1].isspace() else text


@dataclasses.dataclass(frozen=True)
class TaskFile:
    """A task file, read and checked."""

    path: Path
    config: dict[str, Any]
    """What lm-eval understands."""
    builtin: str | None
    size: int
    seed: int
    chat: bool

    @classmethod
    def read(cls, path: Path) -> "TaskFile":
        values = read_task(path)
        return cls(
            path,
            {key: value for key, value in values.items() if key not in OURS},
            values.get("builtin"),
            size=values.get("size", 400),
            seed=values.get("seed", 0),
            chat=values.get("chat", False),
        )

    def build(
        self, name: str, scratch: Path, *, with_shots: bool = False, limit: int | None = None
    ) -> ConfigurableTask:
        """The task with its rows, and with worked examples where they are wanted.

        Of built-in items no more are made than are asked for: their answers are balanced over all that are made.
        Whatever the `datasets` library writes goes into `scratch`."""
        config, rows = self.config | {"task": name}, None
        if self.builtin:
            rows = self._generated(min(self.size, limit or self.size), with_shots)
            config |= {"test_split": "test"} | ({"fewshot_split": "shots"} if with_shots else {})
        else:
            config["dataset_kwargs"] = self._files(scratch)
        try:
            return OneSeparatorTask(config, rows)
        except Exception as error:  # the file decides which part of lm-eval or `datasets` refuses it, and how
            raise DataError(f"{self.path}: {_first_line(error)}") from error

    def _generated(self, size: int, with_shots: bool) -> datasets.DatasetDict:
        make = BUILTIN[self.builtin or ""]
        rows = {"test": make(size, self.seed)}
        if with_shots:
            rows["shots"] = make(SHOTS, self.seed + 1)
        return datasets.DatasetDict({split: datasets.Dataset.from_list(items) for split, items in rows.items()})

    def _files(self, scratch: Path) -> dict[str, Any]:
        """dataset_kwargs with data_files relative to the task file's folder."""
        given = dict(self.config.get("dataset_kwargs") or {})
        files = given.get("data_files")
        if files is None:
            return given
        given["cache_dir"] = str(scratch)
        if isinstance(files, Mapping):
            given["data_files"] = {split: self._absolute(value) for split, value in files.items()}
        else:
            given["data_files"] = self._absolute(files)
        return given

    def _absolute(self, files: Any) -> Any:
        if isinstance(files, str):
            return files if "://" in files else str((self.path.parent / files).resolve())
        return [self._absolute(file) for file in files]


_NO_ROW = ("corresponds to no data", "BatchSize must be greater than 0")
"""What the `datasets` library says of files without a row: of csv and json, and of parquet."""


def _first_line(error: BaseException) -> str:
    if isinstance(error, datasets.exceptions.DatasetGenerationError) and error.__cause__:
        error = error.__cause__  # which says what is wrong with the file
    if isinstance(error, StopIteration) or any(sign in str(error) for sign in _NO_ROW):
        return "its data have no row, so it asks nothing; look at data_files, or take the task out of the recipe"
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
