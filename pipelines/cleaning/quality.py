"""The chain of quality filters over batches of texts: each text is kept, changed, or dropped for a stated reason."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from pipelines.cleaning import kernels
from pipelines.cleaning.language import language_fault
from pipelines.cleaning.lines import LineFilter
from pipelines.cleaning.personal_data import Replacer
from pipelines.cleaning.repair import bad_characters, repaired
from pipelines.cleaning.wrapping import unwrapped
from pipelines.recipe import quality as recipe


class Verdict(NamedTuple):
    """What becomes of a text."""

    text: str
    """As the filters left it."""
    reason: str | None = None
    """Why it is dropped: `quality_<filter>`; None where it is kept."""
    detail: str | None = None
    """The value that was out of bounds: `words 12 < 50`."""


class Quality:
    """The filters of a recipe. Whatever batches they come in, texts fare alike: each is judged alone."""

    def __init__(self, config: recipe.Quality, models: "Mapping[str, Judge] | None" = None):
        """`models`: the judges of filters that ask a model, by their kind."""
        made = models or {}
        self._filters = [
            (item.kind, made[item.kind] if isinstance(item, recipe.Asking) else _made(item)) for item in config.filters
        ]

    def __call__(self, texts: Sequence[str]) -> list[Verdict]:
        """One verdict for each text."""
        verdicts = [Verdict(text) for text in texts]
        alive, batch = list(range(len(texts))), Batch(texts)
        for kind, judge in self._filters:
            faults = judge(batch)
            for place, index in enumerate(alive):
                text, detail = batch.texts[place], faults[place]
                verdicts[index] = Verdict(text, None if detail is None else f"quality_{kind}", detail)
            if any(detail is not None for detail in faults):
                kept = [place for place, detail in enumerate(faults) if detail is None]
                alive, batch = [alive[place] for place in kept], batch.only(kept)
        return verdicts


class Batch:
    """Texts that are judged together, with what was measured of them."""

    def __init__(self, texts: Sequence[str]):
        self.texts = list(texts)

    def replace(self, texts: Sequence[str]) -> None:
        """Go on with other texts; what was measured is forgotten where one of them is new."""
        if texts != self.texts:
            self.texts = list(texts)
            for name in ("_shape", "_repetition", "joined"):
                self.__dict__.pop(name, None)

    def only(self, places: Sequence[int]) -> "Batch":
        """Some of the texts, with what was measured of them."""
        batch = Batch([self.texts[place] for place in places])
        for name in ("_shape", "_repetition"):
            if name in self.__dict__:
                batch.__dict__[name] = self.__dict__[name][list(places)]
        return batch

    def column(self, name: str) -> np.ndarray:
        """A measure of all texts, by its name in kernels.SHAPE or kernels.REPETITION."""
        if name in kernels.SHAPE:
            return self._shape[:, kernels.SHAPE.index(name)]
        return self._repetition[:, kernels.REPETITION.index(name)]

    @cached_property
    def joined(self) -> tuple[np.ndarray, np.ndarray]:
        """All texts as bytes, and where each begins."""
        return kernels.joined(self.texts)

    @cached_property
    def _shape(self) -> np.ndarray:
        out = np.zeros((len(self.texts), len(kernels.SHAPE)))
        kernels.shape(*self.joined, kernels.KINDS, kernels.STOP_WORDS, out)
        return out

    @cached_property
    def _repetition(self) -> np.ndarray:
        out = np.zeros((len(self.texts), len(kernels.REPETITION)))
        kernels.repetition(*self.joined, kernels.KINDS, out)
        return out


Judge = Callable[[Batch], list[str | None]]
"""For each text of the batch, what is wrong with it; it may change the texts."""


def _made(config: recipe.Measuring) -> Judge:
    if isinstance(config, recipe.Repair):
        return _changing(lambda text: repaired(text, config.normalization))
    if isinstance(config, recipe.Unwrap):
        return _changing(unwrapped)
    if isinstance(config, recipe.PersonalData):
        return _replacing(Replacer(config))
    if isinstance(config, recipe.Lines):
        return _of_lines(LineFilter(config))
    if isinstance(config, recipe.Language):
        return lambda batch: [language_fault(text, config) for text in batch.texts]
    if isinstance(config, recipe.BadCharacters):
        most = config.max_bad_characters
        return lambda batch: [_above("bad_characters", bad_characters(text), most) for text in batch.texts]
    return _bounds(config)


def _changing(change: Callable[[str], str]) -> Judge:
    def judge(batch: Batch) -> list[str | None]:
        batch.replace([change(text) for text in batch.texts])
        return _empty(batch)

    return judge


def _of_lines(keep: LineFilter) -> Judge:
    def judge(batch: Batch) -> list[str | None]:
        batch.replace(keep(batch.texts, *batch.joined))
        return _empty(batch)

    return judge


def _empty(batch: Batch) -> list[str | None]:
    return ["no text is left" if not text or text.isspace() else None for text in batch.texts]


def _replacing(replace: Replacer) -> Judge:
    def judge(batch: Batch) -> list[str | None]:
        digits = np.rint(batch.column("digits") * batch.column("characters")).astype(int).tolist()
        batch.replace(replace(batch.texts, *batch.joined, digits))
        return [None] * len(batch.texts)

    return judge


def _above(name: str, value: float, most: float) -> str | None:
    return f"{name} {value:.3g} > {most:g}" if value > most else None


def _bounds(config: recipe.Bounds) -> Judge:
    """A filter whose fields are all `min_<measure>` or `max_<measure>`."""
    limits = [(name[:3], name[4:], getattr(config, name)) for name in type(config).model_fields if name != "kind"]

    def judge(batch: Batch) -> list[str | None]:
        faults: list[str | None] = [None] * len(batch.texts)
        for side, name, limit in limits:
            values = batch.column(name)
            for place in np.flatnonzero(values < limit if side == "min" else values > limit):
                sign = "<" if side == "min" else ">"
                faults[place] = faults[place] or f"{name} {values[place]:.3g} {sign} {limit:g}"
        return faults

    return judge
