"""Whether what the quality filters of a dataset name is there, and fits."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.errors import KeyPath
from pipelines.recipe import paths
from pipelines.recipe.base import MAKES, ArtifactKind
from pipelines.recipe.data import Dataset
from pipelines.recipe.outline import Fault, given
from pipelines.recipe.outside import kind_left
from pipelines.recipe.quality import Classifier, Filter, Quality
from pipelines.recipe.words import did_you_mean


def filters_of(name: str, dataset: Dataset) -> Iterator[tuple[KeyPath, Filter]]:
    """(where it stands, filter) of all that are understood."""
    quality = given(dataset, "quality")
    if isinstance(quality, Quality):
        for index, item in enumerate(given(quality, "filters") or ()):
            yield ("data", name, "quality", "filters", index), item


def find_wrong_classifiers(name: str, dataset: Dataset, recipe_path: Path) -> Iterator[Fault]:
    """Folders that hold no classifier, or one that does not know the label."""
    for where, item in filters_of(name, dataset):
        path = given(item, "path") if isinstance(item, Classifier) else None
        if not path:
            continue
        folder = recipe_path.resolve().parent / path
        missing = paths.missing_of_model(folder)
        if not missing and not (folder / "info.json").is_file():
            missing = "info.json"
        if missing:
            message = f"'{path}' has no {missing} (looked from {recipe_path.parent}/)"
            yield Fault((*where, "path"), f"{message}; give the output folder of a finetune stage's artifact")
        elif (kind := kind_left(folder)) != ArtifactKind.CLASSIFIER:
            made = MAKES[kind] if kind else "no whole model"
            yield Fault((*where, "path"), f"needs a classifier, but '{path}' is {made}")
        elif fault := label_fault(folder, str(given(item, "label"))):
            yield Fault((*where, "label"), fault)


def label_fault(folder: Path, label: str) -> str | None:
    """Why a classifier cannot be asked for a label, if so."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("problem_type") == "regression":
        return "the classifier tells a number, and no labels; train one on labels that are words"
    known = list(config.get("id2label", {}).values())
    if label in known:
        return None
    return f"the classifier knows no label '{label}'{did_you_mean(label, known)}; it knows {', '.join(known)}"
