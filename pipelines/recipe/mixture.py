"""Field of `pretrain` beside `data`: how the mixture changes over the run."""

import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt

from pipelines.recipe.base import Bare, Reads, Section
from pipelines.recipe.data import TextMixture

_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")


def _share(value: Any) -> Any:
    """`80%` as 0.8; a number stays what it is."""
    found = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if isinstance(value, str) and not found:
        raise ValueError(f"'{value}' is not a share of the run; write for example 80%")
    return float(found[1]) / 100 if found else value


ShareOfRun = Annotated[float, BeforeValidator(_share), Field(gt=0.0, lt=1.0)]


class Phase(Section):
    """From some moment on another mixture."""

    start: ShareOfRun
    """Share of the steps after which it begins: 80%."""
    data: TextMixture
    """Text datasets; shares are of tokens."""


class LengthWarmup(Section):
    """Short contexts first (arXiv 2108.06084); a step has as many tokens as any other, and none is left out: each row
    is cut into pieces that do not see each other, linearly longer until they are max_length."""

    start: PositiveInt
    """Tokens of the first pieces."""
    until: ShareOfRun
    """Share of the steps after which rows are whole: 20%."""


PhasesField = Annotated[tuple[Phase, ...], Bare]
Caps = Annotated[dict[str, PositiveFloat], Reads(("text",))]


def faults_of(
    data: dict[str, float],
    phases: tuple[Phase, ...],
    sampling_temperature: float | None,
    max_epochs: dict[str, float],
) -> Iterator[str]:
    """What is wrong with them together."""
    starts = [phase.start for phase in phases]
    if sorted(set(starts)) != starts:
        yield f"phases: each starts after the one before; got {', '.join(f'{start:.0%}' for start in starts)}"
    mixtures = [data, *(phase.data for phase in phases)]
    if sampling_temperature is not None:
        if all(len(mixture) == 1 for mixture in mixtures):
            yield "sampling_temperature: there is only one dataset, so nothing to choose from"
        if any(len(set(mixture.values())) > 1 for mixture in mixtures):
            yield "sampling_temperature says what the shares are, and so do they; name datasets only: data: [en, de]"
    named = {name for mixture in mixtures for name in mixture}
    for name in sorted(max_epochs.keys() - named):
        yield f"max_epochs: '{name}' is none of the datasets of this stage ({', '.join(sorted(named))})"
