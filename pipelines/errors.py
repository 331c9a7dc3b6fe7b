"""Every failure that a user can cause or fix, with its exit code; anything else is a bug and keeps its traceback."""

import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, order=True)
class Problem:
    """One fault of a recipe: where it stands, what it is and what to do."""

    file: str
    line: int
    column: int
    path: str
    """The key path, dotted: `stages.sft.data`, `model.layer_types[0]`; empty for the file as a whole."""
    message: str

    def __str__(self) -> str:
        key = f" {self.path}:" if self.path else ""
        return f"{self.file}:{self.line}:{self.column}:{key} {self.message}"


class PipelineError(Exception):
    """Base class: shown without a traceback, ends with `exit_code`."""

    exit_code = 1
    outcome = "user_error"


class RecipeError(PipelineError):
    """The recipe is wrong. Carries every problem found."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(sorted(problems))
        count = len(self.problems)
        closing = f"{count} problem{'s' if count != 1 else ''}; nothing was run."
        super().__init__("\n".join([*map(str, self.problems), closing]))


class DataError(PipelineError):
    """Rows, columns or files of a dataset are not what the recipe says."""

    exit_code = 3


class ArtifactError(PipelineError):
    """An artifact is missing, damaged, stale or held by another process."""

    exit_code = 3


class MachineError(PipelineError):
    """The machine cannot do what is asked: no disk, no memory, a package or a device is missing."""

    exit_code = 4


class Diverged(PipelineError):
    """A loss, gradient or score is not a finite number. Nothing was applied or saved after it."""

    exit_code = 5
    outcome = "diverged"


class Stopped(PipelineError):
    """Asked to stop, saved, and ready to go on: run the same command again."""

    exit_code = 75
    outcome = "stopped"


_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNREACHABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG)


def of_the_machine(error: Exception) -> Exception:
    """A full or read-only disk and exhausted memory are no bugs; any other error is returned as it is."""
    if not isinstance(error, OSError) and (number := re.search(r"\(os error (\d+)\)", str(error))):
        code = int(number[1])  # safetensors and tokenizers, written in Rust, know no OSError
        error = OSError(code, str(error)) if code in (*_FULL, *_UNREACHABLE) else error
    if isinstance(error, OSError) and error.errno in _FULL:
        return MachineError(f"no space left on the disk while writing {error.filename or 'its output'}")
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        return MachineError(f"{error.filename or 'a file'}: {error.strerror}; nothing can be read or written there")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return MachineError(f"out of memory: {error}; set launch.micro_batch_size to a smaller number")
    return error
