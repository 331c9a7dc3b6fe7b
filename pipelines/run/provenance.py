"""Where and with what an artifact was made. Recorded and shown; it rebuilds nothing."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pipelines.stages.base import LaunchSettings

_LIBRARIES = ("torch", "transformers", "accelerate", "trl", "datasets", "tokenizers", "safetensors", "numpy", "lm_eval")


def provenance(settings: LaunchSettings, seconds: float) -> dict[str, Any]:
    """What a manifest says about the making of an artifact."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "num_processes": settings.num_processes,
        "threads": settings.threads,
        "device": settings.device,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": _commit(),
        "versions": {name: version for name in _LIBRARIES if (version := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this program, where it runs from a checkout."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        shown = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return shown.stdout.strip() or None
