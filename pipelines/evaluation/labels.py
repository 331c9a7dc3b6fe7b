"""What scores are called where one task was asked in several ways: `mmlu` and `mmlu (5-shot)`."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.recipe.evaluation import TaskConfig

_WORDS = {
    "num_fewshot": "{}-shot",
    "limit": "limit {}",
    "max_completion_length": "max_completion_length {}",
    "temperature": "temperature {:g}",
    "num_beams": "{} beams",
    "length_penalty": "length_penalty {:g}",
}
"""Fields of a task that its name says nothing of, and how they are read."""


def labels(scores: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """One label for each (task, settings): the task's name, with those settings in which others of that name differ
    from it. What is asked by default keeps the bare name."""
    asked = list(scores)
    seen: dict[tuple[str, str], set[Any]] = {}
    for task, settings in asked:
        for field in _WORDS:
            seen.setdefault((task, field), set()).add(settings.get(field))
    found = []
    for task, settings in asked:
        told = [
            words.format(settings[field])
            for field, words in _WORDS.items()
            if len(seen[task, field]) > 1 and settings.get(field) != TaskConfig.model_fields[field].default
        ]
        found.append(f"{task} ({', '.join(told)})" if told else task)
    return found
