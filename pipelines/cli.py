"""The verbs, one function each. Imports wait until a verb needs them: looking at a recipe must feel instant."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import ArtifactError, PipelineError, RecipeError, Stopped, of_the_machine
from pipelines.options import add_options
from pipelines.recipe.stages import STAGE_KINDS

if TYPE_CHECKING:
    from pipelines.plan.jobs import Job, Plan
    from pipelines.recipe.load import LoadedRecipe
    from pipelines.run.console import Console
    from pipelines.run.launcher import Door
    from pipelines.run.runner import Runner
    from pipelines.store.artifacts import ArtifactStore, Links

RUNS = Path("runs")
"""Readable links and reports, below the current folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that knows no `→` is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        return VERBS.get(options.verb, stage)(options)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return Stopped.exit_code
    except BrokenPipeError:  # `plan | head`
        sys.stderr.close()
        return 0
    except (OSError, MemoryError) as error:
        told = of_the_machine(error)
        if not isinstance(told, PipelineError):
            raise
        print(told, file=sys.stderr)
        return told.exit_code


def check(options: argparse.Namespace) -> int:
    """Every mistake in the recipe, with its place."""
    from pipelines.recipe.load import find_problems

    problems = find_problems(options.recipe, options.set, options.launch)
    if options.json:
        fields = ("file", "line", "column", "path", "message")
        _print_json({"problems": [{name: getattr(problem, name) for name in fields} for problem in problems]})
    elif problems:
        print(RecipeError(problems), file=sys.stderr)
    else:
        print(f"{options.recipe}: no problems")
    return RecipeError.exit_code if problems else 0


def plan(options: argparse.Namespace) -> int:
    """What would run, and why."""
    from pipelines.run.outlook import as_json, as_text, outlook

    work = _Work(options)
    rows = outlook(work.plan, work.store, work.links, work.loaded.place)
    if options.json:
        _print_json(as_json(work.plan, rows))
    else:
        print(as_text(work.plan, rows))
    return 0


def show(options: argparse.Namespace) -> int:
    """The whole recipe, with each value's origin."""
    from pipelines.recipe.show import show_json, show_recipe

    loaded = _load(options)
    if options.json:
        _print_json(show_json(loaded))
    else:
        print(show_recipe(loaded))
    return 0


def run(options: argparse.Namespace) -> int:
    """What the recipe has not finished yet, then the report."""
    work = _Work(options)
    if options.stage is not None:  # empty, as of a variable that is not set, it is no stage and not all of them
        return _build(work, options.stage)
    work.runner.run(work.plan.jobs)
    names = {job.name for job in work.plan.jobs}
    work.links.keep_only(names)
    if options.json or work.runner.changed or not (work.links.folder / "report.json").exists():
        return report(options, work)
    work.console.say(f"nothing to run; the report is {work.links.folder / 'report.html'}")
    return 0


def stage(options: argparse.Namespace) -> int:
    """One kind of stage, and what it needs."""
    return _build(_Work(options), options.verb)


def _build(work: "_Work", name: str) -> int:
    """The jobs of a name, and what they need; in this process group where a launcher made one."""
    from pipelines.run.in_place import InPlaceRunner, is_launched

    targets = work.plan.named(name)
    if is_launched():
        return work.make_runner(InPlaceRunner).run_here(targets)
    work.runner.run(targets)
    return 0


def data(options: argparse.Namespace) -> int:
    """Every dataset and outside model, fetched and checked; pins the commits of the Hub first."""
    from pipelines.plan.pins import pin

    loaded = _load(options)
    pin(loaded.recipe, loaded.path)
    work = _Work(options, loaded)
    work.runner.run([job for job in work.plan.jobs if job.kind in ("data", "clean", "contamination", "model")])
    return 0


def report(options: argparse.Namespace, work: "_Work | None" = None) -> int:
    """Write the report from what is finished."""
    from pipelines.report.collect import write_report

    work = work or _Work(options)
    work.store.require()  # before the report of another store is replaced by one that says nothing
    work.links.folder.mkdir(parents=True, exist_ok=True)
    page = write_report(work.plan, work.store, work.links.folder)
    if options.json:
        print((work.links.folder / "report.json").read_text(encoding="utf-8"))
    else:
        from pipelines.report.collect import Report
        from pipelines.report.terminal import print_summary

        print_summary(Report.model_validate_json((work.links.folder / "report.json").read_text(encoding="utf-8")))
        work.console.say(f"report: {page}")
    return 0


def export(options: argparse.Namespace) -> int:
    """One stage's model as a folder that other tools read."""
    from pipelines.run.export import export as export_stage

    work, stock = _Work(options), options.format == "stock"
    made = export_stage(work.plan, work.store, work.loaded.place, stage=options.stage, to=options.to, stock=stock)
    if options.json:
        _print_json({"folder": str(options.to), **vars(made)})
        return 0
    for lost in made.left_out:
        print(f"left out, a setting of training that {made.class_name} does not know: {lost}")
    print(f"{options.to}: {made.class_name}; read back, its logits differ by at most {made.largest_difference:.1e}")
    return 0


def ledger(options: argparse.Namespace) -> int:
    """The documents of one step of a pretrain stage."""
    from pipelines.run.ledger import as_text
    from pipelines.run.ledger import ledger as ledger_of

    work = _Work(options)
    found = ledger_of(work.plan, work.store, work.loaded.place, stage=options.stage, step=options.step)
    if options.json:
        _print_json(asdict(found))
        return 0
    print(as_text(found))
    return 0


def new_model(options: argparse.Namespace) -> int:
    """A transformer of your own to go on from: a Python file, and a recipe that trains it."""
    from pipelines.starts import write_new_model

    code, recipe = write_new_model(options.name, options.to)
    print(f"{code}: change what you like\n{recipe}: make run RECIPE={recipe}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Compare every finished file with its manifest."""
    from pipelines.store.artifacts import ArtifactStore
    from pipelines.store.durable import Damaged
    from pipelines.store.durable import verify as verify_folder

    store = ArtifactStore(options.store)
    work = _Work(options) if options.recipe else None
    store.require()
    wanted = {store.path(job) for job in work.plan.jobs} if work else None
    folders = [folder for folder in store.artifacts() if wanted is None or folder in wanted]
    faults = {}
    for folder in folders:
        try:
            verify_folder(folder)
        except Damaged as error:
            faults[folder.name] = str(error)
    if options.json:
        _print_json({"checked": len(folders), "damaged": faults})
    else:
        for fault in faults.values():
            print(fault, file=sys.stderr)
        print(f"{len(folders)} artifacts read, {len(faults)} damaged" + ("; delete and run again" if faults else ""))
    return ArtifactError.exit_code if faults else 0


def clean(options: argparse.Namespace) -> int:
    """Remove unfinished work, and artifacts that no run points to."""
    from pipelines.store.clean import remove, unused

    store = options.store.resolve()
    if not store.is_dir():  # no error: what `clean` is asked for is so already
        print(f"nothing to remove: there is no folder {store}")
        return 0
    folders = unused(store, RUNS.resolve())
    if not folders:
        print("nothing to remove")
        return 0
    for folder in folders:
        print(folder)
    if not options.yes:
        if not sys.stdin.isatty():
            print("nothing was removed; --yes removes them", file=sys.stderr)
            return 0
        print(f"remove these {len(folders)} folders? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return 0
    freed = remove(folders, store)
    print(f"removed {len(folders)} folders, {freed / 1e6:,.1f} MB")
    return 0


def inspect(options: argparse.Namespace) -> int:
    """What a file, folder or pattern holds, as a model would see it, and the lines for a recipe."""
    from pipelines.data.showing import inspect as look
    from pipelines.recipe.paths import SHIPPED

    text, facts = look(options.data, Path.cwd(), options.chat_template or SHIPPED / "chat_templates" / "chatml.jinja")
    if options.json:
        _print_json(facts)
    else:
        print(text)
    return 0


def schema(options: argparse.Namespace) -> int:
    """JSON Schema of recipes, for editors."""
    from pipelines.recipe.schema import schema_text

    print(schema_text(), end="")
    return 0


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "check": check,
    "plan": plan,
    "show": show,
    "run": run,
    "report": report,
    "export": export,
    "ledger": ledger,
    "verify": verify,
    "clean": clean,
    "inspect": inspect,
    "schema": schema,
    "new-model": new_model,
    "data": data,
}


class _Work:
    """A recipe with its plan, its store and whatever runs it, made as far as a verb asks for them."""

    def __init__(self, options: argparse.Namespace, loaded: "LoadedRecipe | None" = None):
        self.options = options
        self.loaded = loaded or _load(options)

    @cached_property
    def plan(self) -> "Plan":
        from pipelines.plan.files import Digests
        from pipelines.plan.planner import make_plan
        from pipelines.recipe.lock import read_lock

        digests = Digests(self.options.store / ".digests.json")
        path = self.loaded.path
        made = make_plan(
            self.loaded.recipe, path=path, digest=digests, pins=read_lock(path), position=self.loaded.place
        )
        digests.save()
        return made

    @cached_property
    def store(self) -> "ArtifactStore":
        from pipelines.store.artifacts import ArtifactStore

        return ArtifactStore(self.options.store)

    @cached_property
    def links(self) -> "Links":
        from pipelines.store.artifacts import Links

        return Links(RUNS / self.loaded.recipe.name)

    @cached_property
    def console(self) -> "Console":
        from pipelines.run.console import Console

        return Console(quiet=self.options.json)

    @cached_property
    def runner(self) -> "Runner":
        from pipelines.run.runner import Runner

        return self.make_runner(Runner)

    def make_runner(self, kind: type) -> Any:
        return kind(
            self.plan,
            self.store,
            self.links,
            door=self._door,
            position=self.loaded.place,
            console=self.console,
            rebuild=self.options.rebuild,
        )

    def _door(self, job: "Job") -> "Door":
        from pipelines.run.launcher import open_door

        launch = self.loaded.recipe.launch.of(job.stage)
        precision = getattr(job.config, "mixed_precision", "no")
        return open_door(launch, precision, self.loaded.path, self._by_hand(job))

    def _by_hand(self, job: "Job") -> list[str]:
        """Arguments that build one job as this run does."""
        options = self.options
        given = ["run", str(options.recipe), "--stage", job.name, "--store", str(options.store)]
        given += [part for override in options.set for part in ("--set", override)]
        given += ["--launch", options.launch] if options.launch else []
        return given + (["--rebuild"] if options.rebuild else [])


def _load(options: argparse.Namespace) -> "LoadedRecipe":
    from pipelines.recipe.load import load_recipe

    return load_recipe(options.recipe, options.set, options.launch)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sourdough", description="Language models from scratch, from one recipe.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    for name, function in VERBS.items():
        add_options(verbs.add_parser(name, help=function.__doc__, description=function.__doc__), name)
    for kind in STAGE_KINDS:
        about = f"The {kind} stages, and what they need."
        add_options(verbs.add_parser(kind, help=about, description=about), kind)
    return parser
