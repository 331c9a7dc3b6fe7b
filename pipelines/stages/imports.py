"""Imports of the large libraries, without the garbage collector's share of their time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Imports make millions of objects and hardly any garbage, yet the collector walks over them again and again: a
    quarter of the time until torch, transformers and trl are there. Afterwards they are set apart (`gc.freeze`), so
    that no later collection visits them, nor the end of the process, and forks go on sharing their pages."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
