"""What the warm process imports before jobs are forked from it. It only imports: a thread pool of torch would not
survive the fork."""

from importlib import import_module

from pipelines.run.launcher import PRELOADED
from pipelines.stages.imports import quick_imports

with quick_imports():
    for name in PRELOADED:
        import_module(name)
