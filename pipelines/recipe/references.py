"""What no single section can see: whether the stages, datasets, files and machines named are there and fit."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import DataError, KeyPath
from pipelines.recipe import paths
from pipelines.recipe.base import MAKES, ArtifactKind, Consumes, OutsideModel, Reads, Section
from pipelines.recipe.benchmarks import find_missing_benchmarks
from pipelines.recipe.circles import find_circles
from pipelines.recipe.data import CELLS, FILE_KINDS, PACKED, PROSE, Dataset
from pipelines.recipe.evaluation import REWARD_FUNCTIONS, SCORED, TASKS, EvaluateStage, TaskConfig, task_kind
from pipelines.recipe.finetune import FinetuneStage
from pipelines.recipe.fits import find_wrong_launch
from pipelines.recipe.kinds import made_by
from pipelines.recipe.mixture import LengthWarmup
from pipelines.recipe.model_fits import find_wrong_models
from pipelines.recipe.outline import UNKNOWN, Fault, Outline, given
from pipelines.recipe.outside import fault_in
from pipelines.recipe.quality_fits import filters_of, find_wrong_classifiers
from pipelines.recipe.stages import PpoStage, TokenizerStage
from pipelines.recipe.task_files import find_task
from pipelines.recipe.tokenizer import Reference
from pipelines.recipe.training import StageConfig, TrainStage
from pipelines.recipe.word_files import READERS
from pipelines.recipe.words import did_you_mean


def find_wrong_references(outline: Outline, recipe_path: Path) -> Iterator[Fault]:
    """Everything that does not fit together, of what is understood of a recipe."""
    for name, dataset in outline.data.items():
        yield from _files(name, dataset, recipe_path)
        for where, item in filters_of(name, dataset):
            yield from _datasets_named(where, item, outline)
            yield from _stages_named(where, item, outline)
        yield from find_wrong_classifiers(name, dataset, recipe_path)
    for name, stage in outline.stages.items():
        at = ("stages", name)
        yield from _stages_named(at, stage, outline)
        yield from _datasets_named(at, stage, outline)
        match stage:
            case TokenizerStage():
                yield from _chat_template(at, stage, recipe_path)
                yield from _outside_tokenizers(at, stage, recipe_path)
            case TrainStage():
                yield from _lengths(at, stage, outline)
                for index, phase in enumerate(given(stage, "phases") or ()):
                    yield from _datasets_named((*at, "phases", index), phase, outline)
            case EvaluateStage():
                yield from _tasks(at, stage, outline)
                yield from _task_files(at, stage, recipe_path)
                yield from _word_files(at, stage, recipe_path)
        yield from _outside_models(at, stage, recipe_path)
    yield from find_missing_benchmarks(outline)
    yield from find_circles(outline)
    yield from find_wrong_models(outline, recipe_path)
    yield from _names(outline)
    yield from find_wrong_launch(outline, recipe_path)


# --- datasets -----------------------------------------------------------------------------------------------------


def _files(name: str, dataset: Dataset, recipe_path: Path) -> Iterator[Fault]:
    folder = recipe_path.resolve().parent
    patterns = [(field, *one) for field in ("files", "holdout_files") for one in enumerate(given(dataset, field) or ())]
    for field, index, pattern in patterns:
        try:
            found = paths.expand([pattern], folder)[pattern]
            is_folder = bool(pattern) and (folder / pattern).is_dir()
        except (OSError, ValueError):
            found, is_folder = [], False
        if not found:
            message = f"no file matches '{pattern}' (looked from {recipe_path.parent}/)"
            yield Fault(("data", name, field, index), _folder(pattern, folder / pattern) if is_folder else message)
        elif fault := next(filter(None, map(_unreadable, found)), None):
            yield Fault(("data", name, field, index), fault)
        else:
            yield from _of_kinds(name, dataset, found)


def _folder(pattern: str, folder: Path) -> str:
    if splits := paths.saved_splits(folder):
        return (
            f"'{pattern}' holds the splits {', '.join(splits)}; name one, for example {pattern.rstrip('/')}/{splits[0]}"
        )
    return f"'{pattern}' is a folder; name the files in it, for example {pattern.rstrip('/')}/*.txt"


def _of_kinds(name: str, dataset: Dataset, found: Sequence[Path]) -> Iterator[Fault]:
    """Fields that belong to other kinds of files than these."""
    for field, kinds in (("column_names", CELLS), ("quoting", CELLS), ("separator", PROSE)):
        value, unset = given(dataset, field), (UNKNOWN, Dataset.model_fields[field].default)
        if value not in unset and (other := next((path for path in found if _kind(path) not in kinds), None)):
            belongs = f"belongs to {' and '.join(kinds[::-1] if kinds is PROSE else kinds)} files"
            yield Fault(("data", name, field), f"{belongs}, and '{other.name}' is none")


def _kind(path: Path) -> str:
    return (path.with_suffix("") if path.suffix.lower() in PACKED else path).suffix.lower()


def _unreadable(path: Path) -> str | None:
    if _kind(path) not in FILE_KINDS:
        return (
            f"'{path.name}' is of no kind that is read; those are {', '.join(FILE_KINDS)}, plain or {', '.join(PACKED)}"
        )
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return f"the name of '{path}' is not UTF-8; rename it"
    return None


def _datasets_named(at: KeyPath, section: Section, outline: Outline) -> Iterator[Fault]:
    if outline.dataset_names is None:
        return
    for field, reads in type(section).marked(Reads):
        value = given(section, field)
        for name in [value] if isinstance(value, str) else (value or ()):
            where = (*at, field, name)
            if name not in outline.dataset_names:
                hint = did_you_mean(name, outline.dataset_names)
                yield Fault(where, f"there is no dataset '{name}' in data{hint}", at_key=not isinstance(value, str))
                continue
            kind = given(outline.data.get(name), "format")
            if kind is not UNKNOWN and kind not in reads.formats:
                yield Fault(where, f"needs {' or '.join(reads.formats)} data, but '{name}' is {kind}")


def _chat_template(at: KeyPath, stage: TokenizerStage, recipe_path: Path) -> Iterator[Fault]:
    name = given(stage, "chat_template")
    if name and paths.chat_template(name, recipe_path) is None:
        known = paths.names("chat_templates", ".jinja", recipe_path)
        yield Fault(
            (*at, "chat_template"),
            f"there is no template '{name}': neither a file beside the recipe nor one of {', '.join(known)}"
            f"{did_you_mean(name, known)}",
        )


def _outside_tokenizers(at: KeyPath, stage: TokenizerStage, recipe_path: Path) -> Iterator[Fault]:
    """Folders and files that are to be tokenizers, and are none."""
    sources: list[tuple[KeyPath, Any]] = [((*at, "source"), given(stage, "source"))]
    sources += [((*at, "compare", index), other) for index, other in enumerate(given(stage, "compare") or ())]
    for where, reference in sources:
        path = given(reference, "path") if isinstance(reference, Reference) else None
        if not path or paths.tokenizer_files(recipe_path.resolve().parent / path):
            continue
        what = "no such file" if path.endswith(".tiktoken") else "no folder with tokenizer.json"
        yield Fault((*where, "path"), f"'{path}' is {what} (looked from {recipe_path.parent}/)")


# --- stages -------------------------------------------------------------------------------------------------------


def _stages_named(at: KeyPath, section: Section, outline: Outline) -> Iterator[Fault]:
    for field, consumes in type(section).marked(Consumes):
        value = given(section, field)
        many = isinstance(value, tuple)
        for index, name in enumerate(value if many else (value,)):
            where = (*at, field, index) if many else (*at, field)
            if many and name in value[:index]:
                yield Fault(where, f"'{name}' is named twice")
            elif isinstance(name, OutsideModel):
                made = made_by(name, outline)
                if made is not None and made not in consumes.kinds:
                    yield Fault((*where, "path"), f"needs {_needed(consumes)}, but '{name}' is {MAKES[made]}")
            elif isinstance(name, str):
                yield from _stage_named(where, name, consumes, outline)


def _stage_named(where: KeyPath, name: str, consumes: Consumes, outline: Outline) -> Iterator[Fault]:
    functions = REWARD_FUNCTIONS if consumes.or_function else ()
    if name in outline.stages:
        made = made_by(name, outline)
        if made is not None and made not in consumes.kinds:
            yield Fault(where, f"needs {_needed(consumes)}, but stage '{name}' makes {MAKES[made]}")
    elif name not in outline.stage_names and name not in functions:
        fitting = [stage for stage, config in outline.stages.items() if config.produces in consumes.kinds]
        hint = did_you_mean(name, [*fitting, *functions])
        yield Fault(where, f"there is no stage '{name}'{' and no such function' if functions else ''}{hint}")


def _needed(consumes: Consumes) -> str:
    *others, last = (MAKES[kind] for kind in consumes.kinds)
    needed = f"{', '.join(others)} or {last}" if others else last
    return needed + (" or a function of pipelines/rewards.py" if consumes.or_function else "")


def _outside_models(at: KeyPath, stage: StageConfig, recipe_path: Path) -> Iterator[Fault]:
    """Folders of models that are not there, or hold none."""
    model = given(stage, "models" if isinstance(stage, EvaluateStage) else "model")
    for index, source in enumerate(model if isinstance(model, tuple) else (model,)):
        where = (*at, "models", index) if isinstance(model, tuple) else (*at, "model")
        path = given(source, "path") if isinstance(source, OutsideModel) else None
        if not path:
            continue
        folder = recipe_path.resolve().parent / path
        if missing := paths.missing_of_model(folder):
            yield Fault((*where, "path"), f"'{path}' has no {missing} (looked from {recipe_path.parent}/)")
        elif fault := fault_in(source, folder):
            yield Fault((*where, "path"), fault)


def _starts_outside(name: object, outline: Outline, seen: tuple[object, ...] = ()) -> bool:
    """Whether the weights of a stage come from a model made elsewhere."""
    if isinstance(name, OutsideModel):
        return True
    stage = outline.stages.get(name) if isinstance(name, str) and name not in seen else None
    return stage is not None and _starts_outside(given(stage, "model"), outline, (*seen, name))


_TAKEN = ("clean-", "contamination-", "model-", "vocabulary-")


def _names(outline: Outline) -> Iterator[Fault]:
    """Jobs are named after stages and datasets, and every name stands for one job."""
    scored = {
        f"{name}-{model.job if isinstance(model, OutsideModel) else model}": name
        for name, stage in outline.stages.items()
        if isinstance(stage, EvaluateStage)
        for model in given(stage, "models") or ()
    }
    for name in outline.stage_names:
        if name.startswith(("data-", "tokens-", *_TAKEN)):
            taken = next((start for start in _TAKEN if name.startswith(start)), "data- or tokens-")
            yield Fault(("stages", name), f"names that start with {taken} are taken; choose another", at_key=True)
        elif name in scored:
            message = f"is also the name of the job that stage '{scored[name]}' makes; choose another"
            yield Fault(("stages", name), message, at_key=True)


# --- lengths and tasks --------------------------------------------------------------------------------------------


def _lengths(at: KeyPath, stage: TrainStage, outline: Outline) -> Iterator[Fault]:
    is_ours = not _starts_outside(at[1], outline)
    positions = given(outline.model, "max_position_embeddings") if is_ours else None
    length = given(stage, "max_length")
    if positions and length and length > positions:
        yield Fault((*at, "max_length"), f"{length} is more than the model's max_position_embeddings ({positions})")
    warmup = given(stage, "length_warmup")
    start = given(warmup, "start") if isinstance(warmup, LengthWarmup) else None
    if positions and start and not length and start >= positions:
        message = f"starts at {start}, and rows have the model's max_position_embeddings ({positions})"
        yield Fault((*at, "length_warmup"), message)
    limit, name = (length, "max_length") if length else (positions, "the model's max_position_embeddings")
    completion = given(stage, "max_completion_length") if isinstance(stage, PpoStage) else UNKNOWN
    if completion and limit and length is not UNKNOWN and completion >= limit:
        message = f"{completion} leaves no room for a prompt: {name} is {limit}"
        yield Fault((*at, "max_completion_length"), message)


def _tasks(at: KeyPath, stage: EvaluateStage, outline: Outline) -> Iterator[Fault]:
    are_ours = not any(_starts_outside(model, outline) for model in given(stage, "models") or ())
    positions = given(outline.model, "max_position_embeddings") if are_ours else None
    tasks = given(stage, "tasks") or ()
    for index, task in enumerate(tasks):
        if not isinstance(task, TaskConfig):
            continue
        here = (*at, "tasks", index)
        if (first := tasks.index(task)) < index and set(type(task).model_fields) <= set(task.__dict__):
            yield Fault(here, f"task {task.name} is asked twice in the same way, first as tasks[{first}]; keep one")
        yield from _stages_named(here, task, outline)
        faults = list(_datasets_named(here, task, outline))
        yield from faults
        name, data = given(task, "name"), given(task, "data")
        dataset = outline.data.get(data) if isinstance(data, str) and not faults else None
        needed, has = task_kind(name).format if name else None, given(dataset, "format")
        if needed and has is not UNKNOWN and has != needed:
            yield Fault((*here, "data"), f"task {name} needs {needed} data, but '{data}' is {has}")
        elif dataset is not None and given(dataset, "holdout") == 0:
            yield Fault((*here, "data"), f"'{data}' has holdout: 0, so nothing of it is left to score")
        completion = given(task, "max_completion_length")
        most = (positions or 0) - (given(outline.model, "architecture") != "encoder_decoder")  # which has two rows
        if name in ("reward", "seq2seq") and positions and completion and completion > most:
            message = f"{completion} leaves no room for a prompt: the model's max_position_embeddings is {positions}"
            yield Fault((*here, "max_completion_length"), message)
        if name:
            yield from _scored(here, name, stage, outline)


def _scored(at: KeyPath, name: str, stage: EvaluateStage, outline: Outline) -> Iterator[Fault]:
    """Whether a task is one for every model of its stage."""
    made = {model: made_by(model, outline) for model in given(stage, "models") or ()}
    unfit = [model for model, kind in made.items() if kind in SCORED and kind not in task_kind(name).models]
    if unfit:
        *others, last = (MAKES[kind] for kind in task_kind(name).models)
        able = f"{', '.join(others)} or {last}" if others else last
        makes = ", ".join(
            f"'{model}' {'makes' if isinstance(model, str) else 'is'} {MAKES[kind]}"
            for model, kind in made.items()
            if kind and model in unfit
        )
        yield Fault((*at, "name"), f"task {name} scores {able}, but {makes}; give it an evaluate stage of its own")
    if name not in TASKS and given(stage, "apply_chat_template") and ArtifactKind.SEQ2SEQ_LM in made.values():
        yield Fault(
            (*at[:2], "apply_chat_template"),
            "encoder-decoders learn no conversations; score them in a stage without it",
        )
    untaught = [
        model
        for model, kind in made.items()
        if name == "seq2seq" and kind == ArtifactKind.CAUSAL_LM and not _of_pairs(model, outline)
    ]
    if untaught:
        names = ", ".join(f"'{model}'" for model in untaught)
        message = f"task seq2seq scores decoders that learnt pairs (finetune, task: seq2seq), which {names} did not"
        yield Fault((*at, "name"), f"{message}; score the stage that did")


def _of_pairs(name: str, outline: Outline) -> bool:
    """Whether a stage learnt pairs, or may have."""
    stage = outline.stages.get(name)
    return stage is None or (isinstance(stage, FinetuneStage) and given(stage, "task") in ("seq2seq", UNKNOWN))


def _task_files(at: KeyPath, stage: EvaluateStage, recipe_path: Path) -> Iterator[Fault]:
    for index, task in enumerate(given(stage, "tasks") or ()):
        name = given(task, "name") if isinstance(task, TaskConfig) else None
        file = given(task, "file") if isinstance(task, TaskConfig) else None
        if file and not paths.is_file(recipe_path.resolve().parent / file):
            yield Fault((*at, "tasks", index, "file"), f"no file '{file}' (looked from {recipe_path.parent}/)")
        if name and name not in TASKS:
            where = (*at, "tasks", index, "name")
            try:
                if find_task(name, recipe_path) is None and "/" in name:  # what lm-eval ships has no `/` in its name
                    yield Fault(where, f"there is no task file '{name}'{_task_hint(name, recipe_path)}")
            except DataError as error:
                yield Fault(where, str(error))


def _word_files(at: KeyPath, stage: EvaluateStage, recipe_path: Path) -> Iterator[Fault]:
    """The task embeddings: once in a stage, and its files as they should be."""
    asked = [
        (index, task)
        for index, task in enumerate(given(stage, "tasks") or ())
        if isinstance(task, TaskConfig) and given(task, "name") == "embeddings"
    ]
    for index, task in asked:
        where, first = (*at, "tasks", index), asked[0]
        if task != first[1]:
            yield Fault(where, f"embeddings is asked twice, first as tasks[{first[0]}]; ask all in one task")
        for field, read in READERS.items():
            name = given(task, field)
            if name and not paths.is_file(recipe_path.parent / name):
                yield Fault((*where, field), f"there is no file '{name}' (looked from {recipe_path.parent}/)")
            elif name:
                try:
                    read(recipe_path.parent / name)
                except DataError as error:
                    yield Fault((*where, field), str(error))


def _task_hint(name: str, recipe_path: Path) -> str:
    known = paths.names("tasks", ".yaml", recipe_path)
    return did_you_mean(name, known) or f"; there are {', '.join(known)}"
