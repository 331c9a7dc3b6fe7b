"""Chapter `data`: where rows come from, what they are, and in which proportions stages mix them."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from pipelines.recipe.base import Bare, LocalFile, Reads, Section
from pipelines.recipe.decontaminate import DecontaminateField
from pipelines.recipe.deduplicate import DeduplicateField
from pipelines.recipe.quality import QualityField

Format = Literal["text", "chat", "preference", "prompt", "labelled", "pairs"]
Layout = Literal["tree", "scored"]
LAYOUTS: dict[Layout, tuple[Format, ...]] = {"tree": ("chat", "preference"), "scored": ("preference",)}
"""What rows that mean something together may become."""

MICROWORLD_VERSION = 1
"""Raised with every change of what the built-in world says, which makes everything that reads it stale."""
TRACK_VERSIONS = {"microworld/sentiment": 2, "microworld/web": 2}
"""Raised where one track alone has changed."""
# Mirrors the tracks of `pipelines.data.microworld`; a contract test keeps the two equal.
BUILTIN: dict[str, Format] = {
    "microworld/text": "text",
    "microworld/chat": "chat",
    "microworld/preferences": "preference",
    "microworld/prompts": "prompt",
    "microworld/web": "text",
    "microworld/reviews": "text",
    "microworld/sentiment": "labelled",
    "microworld/translation": "pairs",
}


# Mirrors the readers of `pipelines.data.files` and the columns of `pipelines.data.formats`; a contract test keeps them
# equal.
FILE_KINDS = (".arrow", ".csv", ".htm", ".html", ".json", ".jsonl", ".md", ".parquet", ".tsv", ".txt")
PACKED = (".bz2", ".gz", ".zst")
CELLS = (".csv", ".tsv")
"""Files whose columns may have no names of their own."""
PROSE = (".md", ".txt")
"""Files that say nothing of where a document ends."""
COLUMNS: dict[Format, tuple[str, ...]] = {
    "text": ("text",),
    "chat": (
        "messages",
        "conversations",
        "prompt",
        "completion",
        "instruction",
        "input",
        "output",
        "system",
        "history",
    ),
    "preference": ("prompt", "instruction", "input", "chosen", "rejected", "system", "history"),
    "labelled": ("text", "text_pair", "label"),
    "pairs": ("source", "target"),
}
"""Our names of columns. Prompt data may have any: reward functions are given them all."""
COLUMNS_OF: dict[Layout, tuple[str, ...]] = {
    "tree": ("prompt", "message_id", "parent_id", "role", "text", "rank", "replies", "deleted"),
    "scored": ("prompt", "instruction", "input", "system", "history", "completion", "output", "score", "label"),
}
"""The same where rows mean something together."""
CLEANING = ("deduplicate", "decontaminate")
"""Fields that belong to the job after the dataset's own, which they do not change."""


class Dataset(Section):
    """One named dataset. Exactly one of `builtin`, `files`, `hub` says where its rows come from."""

    format: Format = "text"
    """What a row is: text | chat (messages, or prompt and completion) | preference (chosen and rejected) | prompt |
    labelled (text, perhaps with text_pair, and label) | pairs (source and target)."""
    layout: Layout | None = None
    """Rows that mean something together: tree (messages with message_id, parent_id, role, text and rank, or with
    replies inside: a chat is the path of best-ranked replies, a preference the best reply against each worse one) |
    scored (prompt, completion and score or label: of each prompt the best against each worse one). What is left over
    is counted. Default: each row stands alone."""
    builtin: (
        Literal[
            "microworld/text",
            "microworld/chat",
            "microworld/preferences",
            "microworld/prompts",
            "microworld/web",
            "microworld/reviews",
            "microworld/sentiment",
            "microworld/translation",
        ]
        | None
    ) = None
    """A track of the built-in world; it brings its format with it."""
    files: Annotated[tuple[str, ...], Bare, LocalFile()] = ()
    """Paths or globs, relative to the recipe: txt, md, html, jsonl, json, csv, tsv, parquet, arrow; plain, .gz, .bz2 or
    .zst; or the folder of one split that `datasets` saved with `save_to_disk`."""
    hub: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")
    """A dataset of the Hugging Face Hub: `org/name`. `make data` pins its commit in `<recipe>.lock`."""
    subset: str | None = None
    """Configuration of a Hub dataset, where it has several."""
    split: str = "train"
    """Split of a Hub dataset."""
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """Commit of a Hub dataset, 40 hex digits; taken from `<recipe>.lock` unless written here."""
    columns: dict[str, str] = {}  # noqa: RUF012  pydantic copies it
    """Our column name -> the name it has in the data: `{text: content}`, `{prompt: question, completion: answer}`."""
    column_names: Annotated[tuple[str, ...], Bare] = ()
    """Names of the columns of .csv and .tsv files that have no header line; with them the first line is a row."""
    quoting: Literal["minimal", "none"] = "minimal"
    """Of .csv and .tsv files: minimal (cells may stand in quotes, as RFC 4180 has it) or none (a quote is a character
    like any other, and each line is a row)."""
    separator: Literal["file", "line", "blank_line"] | None = None
    """What ends a document in a .txt or .md file: the file, each line, or an empty line. Default: file."""
    quality: QualityField | None = None
    """Which texts are worth training on: a preset (web, books), or filters in their order, bare or with thresholds."""
    deduplicate: DeduplicateField = None
    """Remove training rows that are copies of others, here or in datasets above this one: true, or with its fields."""
    decontaminate: DecontaminateField = None
    """Look for questions of the benchmarks that this recipe evaluates on: drop (rows that have some) or tell, or with
    its fields."""
    limit: PositiveInt | None = None
    """Use only the first rows of the source, before the holdout is split off; a holdout of its own stays whole."""
    holdout: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.01
    """Share of examples kept out of training, chosen by a hash of their content. 0 keeps none."""
    holdout_files: Annotated[tuple[str, ...], Bare, LocalFile()] = ()
    """Files whose rows are the holdout, in place of a share of `files`. Rows of `files` that are also there are not
    trained on, and counted."""
    holdout_split: str | None = None
    """Split of the Hub dataset that is the holdout, in place of a share of `split`: `validation`, `test`."""
    max_dropped: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01
    """Share of rows that may be unusable before the job stops."""

    @model_validator(mode="before")
    @classmethod
    def _format_of_builtin(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("builtin"), str) and "format" not in value:
            return value | {"format": BUILTIN.get(value["builtin"], "text")}
        return value

    def faults(self) -> Iterator[str]:
        given = [name for name in ("builtin", "files", "hub") if getattr(self, name)]
        if len(given) != 1:
            yield f"give one of builtin, files, hub; got {' and '.join(given) or 'none'}"
            return
        if self.builtin and self.format != BUILTIN[self.builtin]:
            yield f"format: {self.builtin} is {BUILTIN[self.builtin]} data, not {self.format}"
        for name in ("subset", "split", "revision", "holdout_split"):
            if not self.hub and getattr(self, name) != type(self).model_fields[name].default:
                yield f"{name}: belongs to hub data only"
        if self.layout and self.builtin:
            yield "layout: belongs to files and hub data"
        elif self.layout and self.format not in LAYOUTS[self.layout]:
            yield f"layout: {self.layout} makes {' or '.join(LAYOUTS[self.layout])} data, not {self.format}"
        yield from self._holdout()
        if self.columns and self.builtin:
            yield "columns: belongs to files and hub data; the built-in world has its own"
        elif self.columns:
            yield from self._columns()
        if self.quality and self.format != "text":
            yield f"quality: its filters judge text data, and this is {self.format} data"
        if self.deduplicate and self.deduplicate.spans and self.format != "text":
            yield f"deduplicate: spans are cut out of text data, and this is {self.format} data"
        for name in ("column_names", "quoting"):
            if not self.files and getattr(self, name) != type(self).model_fields[name].default:
                yield f"{name}: belongs to csv and tsv files only"
        if len(set(self.column_names)) != len(self.column_names):
            yield "column_names: a name stands there twice"
        if self.separator and not (self.files and self.format == "text"):
            yield "separator: belongs to text files only"

    def _holdout(self) -> Iterator[str]:
        if self.holdout_files and not self.files:
            yield "holdout_files: belongs to files only"
        given = next((name for name in ("holdout_files", "holdout_split") if getattr(self, name)), None)
        if given and self.holdout != type(self).model_fields["holdout"].default:
            yield f"holdout: {given} says already what the holdout is; remove one of them"
        if self.holdout_split is not None and self.holdout_split == self.split:
            yield f"holdout_split: '{self.split}' is the split that is trained on"

    def _columns(self) -> Iterator[str]:
        known = COLUMNS_OF[self.layout] if self.layout else COLUMNS.get(self.format, tuple(self.columns))
        for ours, theirs in self.columns.items():
            if ours not in known:
                advice = (
                    f"our name comes first, {{{theirs}: {ours}}}" if theirs in known else f"known: {', '.join(known)}"
                )
                yield f"columns: '{ours}' is no column of {self.format} data; {advice}"

    def meaning(self) -> dict[str, Any]:
        """Without the separator that holds anyway."""
        return {key: value for key, value in super().meaning().items() if (key, value) != ("separator", "file")}


def _one_name(value: Any) -> Any:
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        if len(set(value)) != len(value):
            raise ValueError("names a dataset twice")
        return dict.fromkeys(value, 1 / len(value))
    if not isinstance(value, str | dict):
        raise ValueError("needs one dataset's name, {name: share, ...}, or [name, name] for equal shares")
    return {value: 1.0} if isinstance(value, str) else value


def _sums_to_one(mixture: dict[str, float]) -> dict[str, float]:
    total = sum(mixture.values())
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        raise ValueError(f"shares must sum to 1, got {total:g}")
    return mixture


Mixture = Annotated[
    dict[str, PositiveFloat],
    BeforeValidator(_one_name),
    Field(min_length=1),
    AfterValidator(_sums_to_one),
]
"""One dataset's name, {name: share}, or names that share equally; shares are of tokens for text, of examples otherwise,
and sum to 1."""
TextMixture = Annotated[Mixture, Reads(("text",))]
TokenizerMixture = Annotated[Mixture, Reads(("text", "chat", "labelled", "pairs"))]
ChatMixture = Annotated[Mixture, Reads(("chat",))]
PreferenceMixture = Annotated[Mixture, Reads(("preference",))]
PromptMixture = Annotated[Mixture, Reads(("prompt",))]
FinetuneMixture = Annotated[Mixture, Reads(("labelled", "pairs"))]
