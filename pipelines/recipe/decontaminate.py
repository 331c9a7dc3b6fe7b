"""Chapter `data`, field `decontaminate`: what is done with training rows that have questions of the benchmarks."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from pipelines.recipe.base import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Decontaminate(Section):
    """Look in this dataset for the questions of all benchmarks of this recipe (GPT-3, arXiv 2005.14165, appendix C).
    Holdouts stay as they are; what is found in them is told."""

    action: Literal["drop", "tell"] = "drop"
    """drop: training rows with a question go, and another benchmark in the recipe makes the data anew | tell: only
    report them; neither rows nor what is trained on them change."""
    ngram: Annotated[int, Field(ge=5, le=50)] = 13
    """Words one after the other that a question and a row have in common. A question with fewer is looked for as a
    whole, if it has 8 at least (or as many as this)."""
    min_share: Share = 0.0
    """Share of a question's n-grams that a row must have. 0: one n-gram is enough; of held-out documents, which
    bits_per_byte and other tasks score, half of them at least."""
    max_documents: PositiveInt | None = 10
    """n-grams in more training rows than this are taken for phrases that everybody uses, and ignored; null ignores
    none."""
    max_dropped: Share = 0.1
    """Share of the training rows that may be dropped before the job stops."""

    def meaning(self) -> dict[str, Any]:
        """Without what decides nothing of the rows."""
        return {name: value for name, value in super().meaning().items() if name != "max_dropped"}


def _bare(value: Any) -> Any:
    """`drop` and `tell` alone are the action."""
    return {"action": value} if isinstance(value, str) else value


DecontaminateField = Annotated[Decontaminate | None, BeforeValidator(_bare)]
