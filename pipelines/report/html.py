"""The report as one page that needs nothing else: no script, no network, no font."""

from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipelines.report import lineage
from pipelines.report.collect import MODELS, Report, SampleFacts, StageFacts
from pipelines.report.contamination import not_looked_for
from pipelines.report.figures import seconds_text, short
from pipelines.report.plots import maps, plots, vocabularies
from pipelines.report.table import LEGEND, tables
from pipelines.report.text import signs, visible

TEMPLATE = Path(__file__).with_name("report.html.jinja")
LONGEST_SAMPLE = 2000
"""Characters of a prompt or a completion that are shown."""


def page(report: Report) -> str:
    """The page. Whatever came from data or a model passes through `visible` and autoescape; only our plots do not."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.finalize = lambda value: visible(value) if type(value) is str else value
    environment.filters |= {"seconds": seconds_text, "short": short, "signs": signs}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        report=report,
        facts=_facts(report),
        tables=tables(report),
        legend=LEGEND,
        picture=lineage.picture(report),
        box={"width": lineage.WIDTH, "height": lineage.HEIGHT},
        plots=[(plot, Markup(plot.svg)) for plot in plots(report)],
        maps=[(plot, Markup(plot.svg)) for plot in maps(report)],
        vocabularies=[(plot, Markup(plot.svg)) for plot in vocabularies(report)],
        samples=_samples(report),
        not_looked_for=not_looked_for(report.contamination),
        trained=[stage for stage in report.stages if stage.kind in MODELS],
        versions=report.provenance.get("versions", {}),
    )


def _facts(report: Report) -> list[tuple[str, str]]:
    """The few numbers at the top."""
    done = [stage for stage in report.stages if stage.state == "complete"]
    seconds = sum(stage.wall_seconds or 0 for stage in done)
    facts = [("jobs finished", f"{len(done)} of {len(report.stages)}"), ("computing", seconds_text(seconds))]
    sizes = [number for stage in done if (number := _number(stage, "parameters"))]
    if sizes:
        facts.append(("parameters", short(max(sizes))))
    tokens = sum(_number(stage, "tokens") or 0 for stage in done if stage.kind in MODELS)
    if tokens:
        facts.append(("tokens trained on", short(tokens)))
    return facts


def _number(stage: StageFacts, name: str) -> float | None:
    value = stage.metrics.get(name)
    return float(value) if isinstance(value, int | float) else None


def _samples(report: Report) -> list[dict[str, Any]]:
    """One entry per prompt, with what each model made of it, in the order of the stages."""
    order = {name: place for place, name in enumerate(report.models())}

    def place(sample: SampleFacts) -> tuple[str, str]:
        return sample.kind, sample.prompt

    found = []
    first = {place(sample): number for number, sample in reversed(list(enumerate(report.samples)))}
    ordered = sorted(report.samples, key=lambda sample: (first[place(sample)], order.get(sample.stage, 0)))
    for (kind, prompt), group in groupby(ordered, key=place):
        answers = [(sample.stage, sample.completion[:LONGEST_SAMPLE]) for sample in group]
        found.append({"kind": kind, "prompt": prompt[:LONGEST_SAMPLE], "answers": answers})
    return found
