"""The report as one page that needs nothing else: no script, no network, no font."""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipelines.report import lineage
from pipelines.report.collect import MODELS, Report, SampleFacts, StageFacts
from pipelines.report.contamination import not_looked_for
from pipelines.report.data_plots import data_plots, draw_plots
from pipelines.report.datasets import BY
from pipelines.report.figures import count_text, seconds_text, share_text, short, size_text
from pipelines.report.plots import maps, plots, vocabularies
from pipelines.report.table import LEGEND, tables
from pipelines.report.text import oneline, signs, visible
from pipelines.report.tokenizers import TokenizerFacts

TEMPLATE = "report.html.jinja"
LONGEST_SAMPLE = 2000
"""Characters of a prompt or a completion that are shown."""


def page(report: Report) -> str:
    """The page. Whatever came from data or a model passes through `visible` and autoescape; only our plots do not."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.finalize = lambda value: visible(value) if type(value) is str else value
    environment.filters |= {"seconds": seconds_text, "short": short, "signs": signs, "size": size_text}
    environment.filters |= {"share": share_text, "count": count_text, "oneline": oneline}
    environment.globals["zip"] = zip
    template = environment.get_template(TEMPLATE)
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
        data_plots=[(plot, Markup(plot.svg)) for plot in data_plots(report)],
        draw_plots={stage: Markup(svg) for stage, svg in draw_plots(report).items()},
        single_uses=[use for one in report.mixtures if len(one.uses) == 1 or not one.starts for use in one.uses],
        by=BY,
        by_part=_by_part,
        samples=_samples(report),
        not_looked_for=not_looked_for(report.contamination),
        trained=[stage for stage in report.stages if stage.kind in MODELS],
        versions=report.provenance.get("versions", {}),
    )


def _by_part(facts: TokenizerFacts) -> list[tuple[str, list[str], Callable[[str], list[float | None]]]]:
    """(what parts are, their names, name -> bytes per token of each vocabulary); no dataset where there is only one."""

    def of_dataset(name: str) -> list[float | None]:
        return [one.sources[name].bytes_per_token if name in one.sources else None for one in facts.vocabularies]

    def of_language(name: str) -> list[float | None]:
        return [one.languages[name].bytes_per_token if name in one.languages else None for one in facts.vocabularies]

    languages = list(facts.vocabularies[0].languages)
    found = [("dataset", facts.datasets, of_dataset), ("language", languages, of_language)]
    return [one for one in found if len(one[1]) > (one[0] == "dataset")]


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
