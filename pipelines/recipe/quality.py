"""Chapter `data`, field `quality`: which texts are worth training on, as a list of filters with their thresholds."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from pipelines.recipe.base import ArtifactKind, Bare, Bytes, Consumes, LocalFile, Reads, Section
from pipelines.recipe.words import did_you_mean

Share = Annotated[float, Field(ge=0.0, le=1.0)]

# Mirrors the labels of py3langid's model; a contract test keeps the two equal.
LANGUAGES = frozenset((
    "ace", "af", "am", "an", "ar", "ary", "arz", "as", "az", "ba", "bcl", "be", "bg", "bn", "br", "bs", "ca", "crh",
    "cs", "cy", "da", "de", "dz", "el", "en", "eo", "es", "et", "eu", "ext", "fa", "fi", "fo", "fr", "fuv", "fy",
    "ga", "gcf", "gcr", "gd", "gl", "gom", "grc", "gu", "gug", "guw", "ha", "hbo", "he", "hi", "hr", "ht", "hu",
    "hy", "id", "ig", "is", "it", "ja", "jv", "ka", "kab", "kik", "kk", "km", "kn", "ko", "ku", "ky", "la", "lb",
    "lg", "lij", "ln", "lo", "lt", "ltg", "lv", "mg", "mk", "ml", "mn", "mr", "ms", "mt", "my", "ne", "nl", "nn",
    "no", "nso", "oc", "om", "or", "pa", "pcm", "pl", "ps", "pt", "qu", "ro", "ru", "rw", "sa", "sdh", "se", "si",
    "sk", "sl", "sn", "so", "sq", "sr", "st", "sv", "sw", "ta", "te", "tg", "th", "tk", "tl", "tr", "tt", "ug",
    "uk", "ur", "uz", "uzs", "vec", "vi", "vo", "wa", "wuu", "xh", "yo", "yue", "zh", "zu", "zxx",
))  # fmt: skip
_CODES = ", ".join(sorted(LANGUAGES))


class Repair(Section):
    """Mend mojibake and HTML entities (ftfy), and remove control characters; changes texts, drops none."""

    kind: Literal["repair"]
    normalization: Literal["NFC", "NFKC"] | None = None
    """Unicode normal form; NFKC also replaces signs by what they look like. Default: as the text has it."""


class BadCharacters(Section):
    """Drop texts with many replacement characters, private ones, or those of no script."""

    kind: Literal["bad_characters"]
    max_bad_characters: Share = 0.001
    """Share of characters."""


class Unwrap(Section):
    """Join the lines of paragraphs that were cut to fit a page, so that a line is a paragraph: what comes after judges
    lines, and would take most of these for no text; changes texts, drops none."""

    kind: Literal["unwrap"]


class Lines(Section):
    """Remove lines that are no text, in C4's way (arXiv 1910.10683, 2.2); changes texts, drops those of no others."""

    kind: Literal["lines"]
    min_words: NonNegativeInt = 3
    """Shorter lines go."""
    terminal_punctuation: bool = True
    """Lines that end without a full stop, question mark, exclamation mark or quotation mark go."""
    boilerplate: bool = True
    """Short lines that speak of JavaScript, cookies, terms of use, privacy policies or rights, or that ask to log in,
    to subscribe, to click or to read more, go."""


class Length(Section):
    """Drop texts that are too short, too long, or of words that are none (Gopher, arXiv 2112.11446, A1.1)."""

    kind: Literal["length"]
    min_words: NonNegativeInt = 50
    max_words: PositiveInt = 100_000
    min_mean_word_length: NonNegativeFloat = 3.0
    """Characters."""
    max_mean_word_length: PositiveFloat = 10.0
    """Characters."""


class GopherQuality(Section):
    """Drop what is no running text (Gopher, arXiv 2112.11446, A1.1)."""

    kind: Literal["gopher_quality"]
    max_symbols_per_word: NonNegativeFloat = 0.1
    """Hash signs, or ellipses, whichever are more."""
    max_bullet_lines: Share = 0.9
    """Share of lines that begin with a bullet."""
    max_ellipsis_lines: Share = 0.3
    """Share of lines that end with an ellipsis."""
    min_words_with_letter: Share = 0.8
    """Share of words that have a letter."""
    min_stop_words: Annotated[int, Field(ge=0, le=8)] = 2
    """How many of the, be, to, of, and, that, have, with must be there; 0 for other languages than English."""


class GopherRepetition(Section):
    """Drop what repeats itself (Gopher, arXiv 2112.11446, table A1); shares of characters unless said otherwise."""

    kind: Literal["gopher_repetition"]
    max_duplicate_lines: Share = 0.30
    """Share of lines that stood in the text before."""
    max_duplicate_line_characters: Share = 0.20
    max_duplicate_paragraphs: Share = 0.30
    """Share of paragraphs that stood in the text before."""
    max_duplicate_paragraph_characters: Share = 0.20
    max_top_2_gram: Share = 0.20
    """Of the most frequent two words in a row."""
    max_top_3_gram: Share = 0.18
    max_top_4_gram: Share = 0.16
    max_duplicate_5_grams: Share = 0.15
    """Of words within five in a row that stood in the text before."""
    max_duplicate_6_grams: Share = 0.14
    max_duplicate_7_grams: Share = 0.13
    max_duplicate_8_grams: Share = 0.12
    max_duplicate_9_grams: Share = 0.11
    max_duplicate_10_grams: Share = 0.10


class FineWeb(Section):
    """Drop lists and menus (FineWeb, arXiv 2406.17557)."""

    kind: Literal["fineweb"]
    min_whole_lines: Share = 0.12
    """Share of lines that end with punctuation."""
    max_duplicate_line_characters: Share = 0.1
    """Share of characters in lines that stood in the text before."""
    max_short_lines: Share = 0.67
    """Share of lines below 30 characters."""


class Language(Section):
    """Keep texts of some languages, told apart by py3langid, which knows 139 of them and what is none (zxx)."""

    kind: Literal["language"]
    keep: Annotated[tuple[str, ...], Bare]
    """Codes of ISO 639: [en, de]."""
    min_probability: Share = 0.65
    """What the language must have at least among all."""

    def faults(self) -> Iterator[str]:
        if not self.keep:
            yield "keep: is empty; name a language at least"
        for code in sorted(set(self.keep) - LANGUAGES):
            yield f"keep: '{code}' is no language that is known{did_you_mean(code, LANGUAGES)}; known are {_CODES}"


class PersonalData(Section):
    """Replace what may identify somebody; changes texts, drops none."""

    kind: Literal["personal_data"]
    email: str | None = "someone@example.com"
    """What stands for e-mail addresses; null keeps them."""
    phone: str | None = "555-0100"
    """What stands for telephone numbers; null keeps them."""
    ip_address: str | None = "192.0.2.1"
    """What stands for public IPv4 and IPv6 addresses; null keeps them."""
    key: str | None = "<key>"
    """What stands for access keys and private keys of well-known services; null keeps them."""


class Perplexity(Section):
    """Drop what is nothing like the texts of a reference, as CCNet does (arXiv 1911.00359, 2.3): by the perplexity per
    word under a model of n-grams that is trained on it. CCNet's has five pieces of words in a row, from KenLM, and cuts
    at percentiles of the texts themselves; this one has three words, and cuts at one of held-out texts of the
    reference."""

    kind: Literal["perplexity"]
    reference: Annotated[str, Reads(("text",))]
    """A text dataset of this recipe with texts that are as they should be, before it is deduplicated."""
    percentile: Annotated[float, Field(gt=0.0, le=100.0)] | None = None
    """Drop texts above this percentile of the reference's holdout: 99 lets through what is no stranger than 99 % of
    it."""
    max_perplexity: PositiveFloat | None = None
    """Drop texts above this, in place of a percentile."""
    min_perplexity: NonNegativeFloat = 0.0
    """Drop texts below this: they say the same again and again."""
    reference_size: Bytes = 50_000_000
    """How much of the reference is read, from its beginning: `50 MB`."""

    def faults(self) -> Iterator[str]:
        if (self.percentile is None) == (self.max_perplexity is None):
            yield f"give one of percentile and max_perplexity; got {'none' if self.percentile is None else 'both'}"


class Classifier(Section):
    """Drop what a classifier of this pipeline takes for bad, as FineWeb-Edu does with one of its own (arXiv 2406.17557,
    4). It runs on the CPU."""

    kind: Literal["classifier"]
    model: Annotated[str, Consumes((ArtifactKind.CLASSIFIER,))] | None = None
    """A finetune stage of this recipe (task: classification)."""
    path: Annotated[str | None, LocalFile()] = None
    """In place of a stage, a folder that one has left (`output` of its artifact), relative to the recipe."""
    label: str | int
    """The label that texts shall have."""
    min_probability: Share = 0.5
    """What the label must have at least."""
    max_length: PositiveInt | None = None
    """Tokens that are read of a text, from its beginning. Default: as many as the model has positions."""

    def faults(self) -> Iterator[str]:
        if (self.model is None) == (self.path is None):
            yield f"give one of model and path; got {'none' if self.path is None else 'both'}"


Measuring = (
    Repair
    | BadCharacters
    | Unwrap
    | Lines
    | Length
    | GopherQuality
    | GopherRepetition
    | FineWeb
    | Language
    | PersonalData
)
"""Filters that need nothing but a text."""
Asking = Perplexity | Classifier
"""Filters that ask a model of another job."""
Filter = Annotated[Measuring | Asking, Field(discriminator="kind")]
KINDS = tuple(get_args(item.model_fields["kind"].annotation)[0] for item in get_args(Measuring | Asking))
Bounds = Length | GopherQuality | GopherRepetition | FineWeb
"""Filters whose fields are all `min_<measure>` or `max_<measure>`."""
PRESETS: Mapping[str, tuple[str, ...]] = {
    "web": ("repair", "unwrap", "lines", "length", "gopher_quality", "gopher_repetition", "fineweb", "personal_data"),
    "books": ("repair", "bad_characters", "gopher_repetition"),
}
"""Name -> filters of that kind with their defaults."""


def _bare(value: Any) -> Any:
    """A preset, a filter's bare kind, or a list of filters, as {filters: [...]}."""
    if isinstance(value, str | list | tuple):
        value = {"filters": value}
    if isinstance(value, dict) and isinstance(found := value.get("filters"), str | list | tuple):
        if isinstance(found, str) and found not in PRESETS and found not in KINDS:
            hint = did_you_mean(found, [*PRESETS, *KINDS])
            raise ValueError(f"'{found}' is no preset ({', '.join(PRESETS)}) and no filter{hint}")
        found = PRESETS.get(found, (found,)) if isinstance(found, str) else found
        for name in [item for item in found if isinstance(item, str) and item in PRESETS]:
            raise ValueError(
                f"'{name}' is a preset and stands alone; in a list, name filters: {', '.join(PRESETS[name])}"
            )
        value = value | {"filters": tuple({"kind": item} if isinstance(item, str) else item for item in found)}
    return value


class Quality(Section):
    """Filters, each applied to what the ones before it left."""

    filters: tuple[Filter, ...]
    """A preset (web, books), or filters in their order; a bare kind has the thresholds of its source."""
    dry_run: bool = False
    """Count and show what would be dropped or changed, and keep all as it is."""

    @property
    def perplexity(self) -> Perplexity | None:
        return next((item for item in self.filters if isinstance(item, Perplexity)), None)

    @property
    def classifier(self) -> Classifier | None:
        return next((item for item in self.filters if isinstance(item, Classifier)), None)

    def faults(self) -> Iterator[str]:
        if not self.filters:
            yield "filters: is empty; name at least one, or leave quality out"
        kinds = [item.kind for item in self.filters]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        if twice:
            yield f"filters: {', '.join(twice)} stands there twice; give it once, with all its thresholds"
        for item in self.filters:
            low_high = [(name, f"max_{name[4:]}") for name in type(item).model_fields if name.startswith("min_")]
            for low, high in low_high:
                most = getattr(item, high, None)
                if most is not None and getattr(item, low) > most:
                    yield f"filters: {item.kind}: {low} is above {high}, so nothing can pass"


QualityField = Annotated[Quality, BeforeValidator(_bare)]
