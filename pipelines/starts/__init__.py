"""Starting points that a person goes on from: a transformer of one's own, and a recipe that trains it."""

import re
from pathlib import Path

from pipelines.errors import MachineError

HERE = Path(__file__).parent
NAME = re.compile(r"[a-z][a-z0-9_]*")


def write_new_model(name: str, folder: Path) -> list[Path]:
    """Write `<name>.py` and `<name>.yaml`, which run as they are. MachineError for a name that is none of a module, and
    where there is a file of that name."""
    if not NAME.fullmatch(name):
        raise MachineError(
            f"NAME '{name}' is no name for a module; give lower-case letters, digits and _ (--name thing)"
        )
    written = {folder / f"{name}{ending}": (HERE / f"thing{ending}").read_text("utf-8") for ending in (".py", ".yaml")}
    for path in written:
        if path.exists():
            raise MachineError(f"{path} is there already; choose another name, or another folder by --to")
    folder.mkdir(parents=True, exist_ok=True)
    title = "".join(part.capitalize() for part in name.split("_"))
    for path, text in written.items():
        path.write_text(text.replace("Thing", title).replace("thing", name), "utf-8")
    return list(written)
