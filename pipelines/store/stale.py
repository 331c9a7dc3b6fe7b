"""Why a job is not finished: which value changed, from what to what, and on which line."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pipelines.errors import KeyPath
from pipelines.plan.files import format_of
from pipelines.plan.jobs import Job
from pipelines.recipe.base import Section
from pipelines.recipe.tree import format_path
from pipelines.store.artifacts import Found

COSTLY_SECONDS = 600
"""A stale job that took longer than this is rebuilt only when asked to."""

Position = Callable[[KeyPath], tuple[str, int, int]]


@dataclass(frozen=True)
class Reason:
    """Why a job has to run."""

    status: str
    """new | resume | stale | damaged"""
    text: str
    seconds: float = 0.0
    """What the artifact that it replaces had cost."""

    @property
    def costly(self) -> bool:
        return self.status in ("stale", "damaged") and self.seconds > COSTLY_SECONDS


def why(
    found: Found, damage: Callable[[Job], str], previous: Mapping[str, Any] | None, position: Position
) -> Reason | None:
    """None for a finished job. `previous` is the manifest that the job's name stood for in the last run."""
    job = found.job
    if found.artifact is not None:
        return None
    seconds = float(((previous or {}).get("provenance") or {}).get("seconds", 0.0))
    if found.changed_input:
        return Reason("stale", f"the bytes of {found.changed_input} differ", seconds)
    if found.state == "damaged":
        return Reason("damaged", damage(job), seconds)
    if found.state == "partial":
        return Reason("resume", "was begun and goes on")
    if previous is None:
        return Reason("new", "")
    if previous.get("fingerprint") == job.fingerprint:
        return Reason("new", "its artifact is gone")
    return Reason("stale", "; ".join(differences(previous, job, position)) or "another program made it", seconds)


def differences(previous: Mapping[str, Any], job: Job, position: Position) -> list[str]:
    """What decides the result and is not as it was, one sentence each."""
    try:
        old = Job.model_validate_json(json.dumps(previous["job"]))
    except (KeyError, ValidationError):
        return ["made by a version of this program that wrote other recipes"]
    if old.kind != job.kind:
        return [f"{job.name} was a {old.kind} stage"]
    return [
        *_version(previous.get("version"), old),
        *_world(old, job),
        *_values(old, job, position),
        *_code(old, job),
        *_libraries(old, job),
        *_files(old, job),
        *_inputs(old, job),
    ]


def _version(made_by: int | None, old: Job) -> Iterator[str]:
    """Of what the old job asked, since other settings may have other versions."""
    if made_by != old.config.version:
        yield f"this program makes {old.kind} another way (version {made_by} → {old.config.version})"


def _world(old: Job, new: Job) -> Iterator[str]:
    if old.world != new.world and new.world is not None:
        yield f"the built-in world says other things (version {_shown(old.world, ())} → {new.world})"


def _asked(old: Job, new: Job) -> Iterator[str]:
    """Of the questions of benchmarks, whose tasks stand in no order of the recipe."""
    before, after = (job.facts()["config"]["tasks"] for job in (old, new))
    if before != after:
        was, now = ({task["name"] for task in tasks} for tasks in (before, after))
        changes = [
            f"{', '.join(sorted(some))} {what}" for some, what in ((now - was, "new"), (was - now, "gone")) if some
        ]
        yield f"the recipe asks other questions ({'; '.join(changes) or 'as many as another limit says'})"


def _values(old: Job, new: Job, position: Position) -> Iterator[str]:
    if new.kind == "benchmarks":
        yield from _asked(old, new)
        return
    for chapter, before, after, key in (
        ("config", old.config, new.config, _config_key(new)),
        ("model", old.model, new.model, ("model",)),
    ):
        was, now = _dump(before), _dump(after)
        for path in _changes(old.facts().get(chapter, {}), new.facts().get(chapter, {}), was, now):
            place = key + (path[1:] if new.kind == "data" else path)
            yield f"{format_path(place)} {_shown(was, path)} → {_shown(now, path)} ({_where(place, position)})"
    if old.seed != new.seed:
        own = getattr(new.config, "seed", None) is not None
        place = ("stages", new.stage, "seed") if own else ("seed",)
        yield f"seed {old.seed} → {new.seed} ({_where(place, position)})"


def _config_key(job: Job) -> KeyPath:
    return ("data", job.stage) if job.kind in ("data", "clean", "contamination", "tokens") else ("stages", job.stage)


def _code(old: Job, new: Job) -> Iterator[str]:
    """Definitions of a model of the researcher's own."""
    for name in sorted({*old.code, *new.code}):
        if old.code.get(name) != new.code.get(name):
            what = "is gone" if name not in new.code else "is new" if name not in old.code else "changed"
            yield f"code of {name} {what}"


def _libraries(old: Job, new: Job) -> Iterator[str]:
    for name, version in new.libraries.items():
        if (before := old.libraries.get(name)) != version:
            yield f"{name} {before or 'of another version'} → {version} reads its files"


def _files(old: Job, new: Job) -> Iterator[str]:
    before, after = set(old.files.values()), set(new.files.values())
    changed = [path for path, digest in new.files.items() if digest not in before]
    removed = [path for path, digest in old.files.items() if digest not in after and path not in new.files]
    for path in changed[:3]:
        yield f"{path} {'changed' if path in old.files else 'is new'}"
    for path in removed[:3]:
        yield f"{path} is no longer read"
    if not changed and not removed:
        was, now = ([(format_of(path), digest) for path, digest in job.files.items()] for job in (old, new))
        if sorted(was) != sorted(now):
            yield f"the same files are read as {', '.join(sorted({kind for kind, _ in now}))}"
        elif was != now:
            yield "its files come in another order"


def _inputs(old: Job, new: Job) -> Iterator[str]:
    before = {item.job: item for item in old.inputs.values()}
    after = {item.job: item for item in new.inputs.values()}
    for name, item in after.items():
        if name not in before:
            if all(item.fingerprint != other.fingerprint for other in before.values()):
                yield f"reads {name} now"
        elif item.fingerprint != before[name].fingerprint:
            yield f"depends on {name}"
        if name in before and item.share != before[name].share:
            yield f"share of {name} {before[name].share:g} → {item.share:g}"
    for name, item in before.items():
        if name not in after and all(item.fingerprint != other.fingerprint for other in after.values()):
            yield f"no longer reads {name}"


def _changes(old: Any, new: Any, was: Any, now: Any) -> list[KeyPath]:
    """Where facts differ; a block that is new or gone (`was`, `now`: with defaults) stands for all that is in it."""
    differing = [path for path in {*_leaves(old), *_leaves(new)} if _at(old, path) != _at(new, path)]
    found = {_block(path, was, now) for path in differing}
    return sorted((path for path in found if not any(path == other[: len(path)] != other for other in found)), key=str)


def _block(path: KeyPath, was: Any, now: Any) -> KeyPath:
    for length in range(1, len(path)):
        if (
            was is not None
            and now is not None
            and (_at(was, path[:length]) is None) != (_at(now, path[:length]) is None)
        ):
            return path[:length]
    return path


def _leaves(tree: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    deeper = [leaf for key, value in children for leaf in _leaves(value, (*path, key))]
    yield from deeper or [path]


def _at(tree: Any, path: KeyPath) -> Any:
    for key in path:
        try:
            tree = tree[key]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


def _dump(section: Section | None) -> Any:
    return None if section is None else section.model_dump(mode="json")


def _shown(tree: Any, path: KeyPath) -> str:
    value = _at(tree, path)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_shown(value, (name,))}' for name in value)}}}"
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)


def _where(key: KeyPath, position: Position) -> str:
    file, line, _ = position(key)
    return file if file.startswith("--") else f"{file}:{line}"  # given on the command line
