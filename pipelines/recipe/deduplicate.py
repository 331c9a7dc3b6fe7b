"""Chapter `data`, field `deduplicate`: which training rows are copies of others and go."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, NonNegativeInt

from pipelines.recipe.base import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Deduplicate(Section):
    """Remove training rows that stood before: in this dataset, in one above it in the recipe that is deduplicated too
    and has the same format, or in the holdout of any of them. Holdouts stay as they are."""

    near: Annotated[float, Field(ge=0.7, le=1.0)] = 0.75
    """Jaccard similarity of their five-word shingles from which on two texts are taken for the same; 1 for exact copies
    only. It is estimated by MinHash (256 slots; 32 bands of 8): of pairs at 0.8 it finds 97 in 100."""
    near_min_words: Annotated[int, Field(ge=5)] = 50
    """Shorter texts are only the same as exact copies of theirs."""
    template_share: Share = 0.01
    """Shingles that stand in more than this share of the rows of a dataset, and in more than 50, are a template's: they
    make no two rows the same. 1 knows no templates."""
    spans: Annotated[int, Field(ge=20)] | None = None
    """Runs of so many words or more that stood before are cut out of texts, of the same one too; text data only."""
    spans_min_words: NonNegativeInt = 25
    """A text of which less is left after that goes."""
    warn_above: Share = 0.3
    """Share of the training rows whose removal is worth a note."""

    def meaning(self) -> dict[str, Any]:
        """Without what decides nothing of the rows."""
        return {name: value for name, value in super().meaning().items() if name != "warn_above"}


def _bare(value: Any) -> Any:
    """`true` is all defaults, `false` none."""
    if isinstance(value, bool):
        return {} if value else None
    if isinstance(value, str | int | float):
        raise ValueError("is true, or a block of fields: {near: 0.8, spans: 50}")
    return value


DeduplicateField = Annotated[Deduplicate | None, BeforeValidator(_bare)]
