"""Whether the stages fit the machines of chapter `launch`: launch files, precision, and batches that divide."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import KeyPath, MachineError
from pipelines.recipe.accelerate_files import AccelerateFile, read_accelerate
from pipelines.recipe.launch import StageLaunch
from pipelines.recipe.outline import UNKNOWN, Fault, Outline, given
from pipelines.recipe.training import TrainStage
from pipelines.recipe.words import did_you_mean


@dataclass(frozen=True)
class _Width:
    """How a stage's batch is cut, and where in `launch` that is said."""

    file: AccelerateFile
    micro: int | None
    said: KeyPath

    @property
    def each(self) -> int:
        """Sequences that all processes take in at once: global batches are multiples of it."""
        return self.file.num_processes * (self.micro or 1)

    def __str__(self) -> str:
        count = self.file.num_processes
        processes = f"{count} process{'es' if count > 1 else ''} (launch file {self.file.path.stem})"
        return f"{processes} x micro_batch_size {self.micro} = {self.each}" if self.micro else processes


def find_wrong_launch(outline: Outline, recipe_path: Path) -> Iterator[Fault]:
    """Faults of `launch` and of what stages ask of it."""
    own = given(outline.launch, "stages") or {}
    for name in own:
        if name not in outline.stage_names:
            hint = did_you_mean(name, outline.stage_names)
            yield Fault(("launch", "stages", name), f"there is no stage '{name}'{hint}", at_key=True)
    files: dict[str, AccelerateFile] = {}
    places: list[tuple[KeyPath, str]] = [(("launch", "config"), given(outline.launch, "config"))]
    places += [(("launch", "stages", name, "config"), given(stage, "config")) for name, stage in own.items()]
    for path, config in places:
        if config and config not in files:
            try:
                files[config] = read_accelerate(config, recipe_path)
            except MachineError as error:
                yield Fault(path, str(error))
    widths = {
        name: width
        for name, stage in outline.stages.items()
        if isinstance(stage, TrainStage) and (width := _width(name, outline, own.get(name), files))
    }
    yield from _batches(widths, outline)
    yield from _precisions(widths, outline)


def _width(name: str, outline: Outline, own: StageLaunch | None, files: dict[str, AccelerateFile]) -> _Width | None:
    found, said = {}, {}
    for field in ("config", "micro_batch_size"):
        value = given(own, field) if own is not None else None
        said[field] = ("launch", "stages", name, field) if value is not None else ("launch", field)
        found[field] = given(outline.launch, field) if value is None else value
    file, micro = files.get(found["config"]), found["micro_batch_size"]
    if file is None or micro is UNKNOWN:
        return None
    return _Width(file, micro, said["micro_batch_size"] if micro else said["config"])


def _batches(widths: dict[str, _Width], outline: Outline) -> Iterator[Fault]:
    """A batch that does not divide is told at the stage; several that one launch setting breaks, at that setting."""
    broken: dict[_Width, list[str]] = {}
    for name, width in widths.items():
        batch = given(outline.stages[name], "global_batch_size")
        if batch and batch % width.each:
            broken.setdefault(width, []).append(name)
    for width, names in broken.items():
        batches = [outline.stages[name].__dict__["global_batch_size"] for name in names]
        if len(names) == 1:
            yield Fault(("stages", names[0], "global_batch_size"), f"{batches[0]} is not a multiple of {width}")
            continue
        stages = ", ".join(f"{name} ({batch})" for name, batch in zip(names, batches, strict=True))
        yield Fault(width.said, f"{width} does not divide the global_batch_size of {stages}")


def _precisions(widths: dict[str, _Width], outline: Outline) -> Iterator[Fault]:
    """As `_batches`: at the stage, or of several once, at the file that they run with."""
    others: dict[AccelerateFile, list[str]] = {}
    for name, width in widths.items():
        theirs, ours = width.file.mixed_precision, given(outline.stages[name], "mixed_precision")
        if theirs and ours and theirs != ours:
            others.setdefault(width.file, []).append(name)
    for file, names in others.items():
        precisions = [outline.stages[name].__dict__["mixed_precision"] for name in names]
        said = f"{file.path} says mixed_precision: {file.mixed_precision}"
        advice = "precision is the stage's: remove the line there"
        if len(names) == 1:
            yield Fault(("stages", names[0], "mixed_precision"), f"computes in {precisions[0]}, but {said}; {advice}")
            continue
        common = given(outline.launch, "config") == file.path.stem
        stages = ", ".join(f"{name} ({precision})" for name, precision in zip(names, precisions, strict=True))
        where = ("launch", "config") if common else ("launch", "stages", names[0], "config")
        yield Fault(where, f"{said}, not that of {stages}; {advice}")
