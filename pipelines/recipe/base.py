"""The strict, frozen base of every recipe section, quantities with units, and typed references between stages."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_serializer,
    model_validator,
)

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
"""Names become folders: lower case, digits, `_` and `-` only."""


class Section(BaseModel):
    """One block of a recipe: unknown fields are errors, values are never coerced or mutated."""

    # Docstrings of fields are read by pipelines.recipe.docstrings when someone asks: collecting them here costs every
    # command a quarter of its start-up.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)

    def faults(self) -> Iterator[str]:
        """What is wrong with fields that are each right alone; a message is shown at the first field that it names."""
        yield from ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if found := list(self.faults()):
            raise ValueError(*found)
        return self

    def meaning(self) -> dict[str, Any]:
        """The values that differ from the defaults, as JSON: what a fingerprint is made of."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def marked(cls, mark_type: type) -> Iterator[tuple[str, Any]]:
        """(field, mark) of every field annotated with a mark of this type, also as one half of `... | None`."""
        for field, info in cls.model_fields.items():
            halves = [mark for half in get_args(info.annotation) for mark in getattr(half, "__metadata__", ())]
            for mark in [*info.metadata, *halves]:
                if isinstance(mark, mark_type):
                    yield field, mark


class ArtifactKind(StrEnum):
    """What a job leaves behind, as far as others may consume it."""

    DATASET = "dataset"
    TOKENS = "tokens"
    TOKENIZER = "tokenizer"
    VOCABULARY = "vocabulary"
    QUESTIONS = "questions"
    CONTAMINATION = "contamination"
    CAUSAL_LM = "causal_lm"
    MASKED_LM = "masked_lm"
    SEQ2SEQ_LM = "seq2seq_lm"
    CLASSIFIER = "classifier"
    REWARD_MODEL = "reward_model"
    SCORES = "scores"


MAKES = {
    ArtifactKind.TOKENIZER: "a tokenizer",
    ArtifactKind.CAUSAL_LM: "a causal LM",
    ArtifactKind.MASKED_LM: "a masked LM",
    ArtifactKind.SEQ2SEQ_LM: "an encoder-decoder",
    ArtifactKind.CLASSIFIER: "a classifier",
    ArtifactKind.REWARD_MODEL: "a reward model",
    ArtifactKind.SCORES: "scores",
}
"""What a stage makes, in words."""


@dataclass(frozen=True)
class Consumes:
    """Marks a field that names an upstream stage (or several), and says what that stage must make: one of `kinds`."""

    kinds: tuple[ArtifactKind, ...]
    or_function: bool = False
    """Whether a function of pipelines/rewards.py may stand there instead."""


@dataclass(frozen=True)
class Reads:
    """Marks a field that mixes datasets, and says which formats they may have."""

    formats: tuple[str, ...]


@dataclass(frozen=True)
class LocalFile:
    """Marks a path whose content decides the result: its digest enters the fingerprint, its name does not."""


class OutsideModel(Section):
    """A language model made elsewhere, in safetensors, with its tokenizer; no code of its own is run."""

    hub: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
    """A model of the Hugging Face Hub: `org/name`. `make data` pins its commit in `<recipe>.lock`."""
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """Commit of a Hub model, 40 hex digits; taken from `<recipe>.lock` unless written here."""
    path: Annotated[str | None, LocalFile()] = None
    """A folder, relative to the recipe."""
    ignore_remote_code: bool = False
    """It brings code of its own, which is never run: read its weights without, as the class of transformers that its
    config names. Without this word such a model is refused."""

    def faults(self) -> Iterator[str]:
        if (self.hub is None) == (self.path is None):
            yield f"give one of hub and path; got {'both' if self.hub else 'none'}"
        if self.revision and not self.hub:
            yield "revision: belongs to hub models only"

    @property
    def job(self) -> str:
        """Name of the job that brings it in."""
        return "model-" + re.sub(r"[^a-z0-9_-]+", "-", (self.hub or self.path or "").lower()).strip("-")

    def __str__(self) -> str:
        return self.hub or self.path or ""


def _is_outside(value: Any) -> str:
    return "[outside]" if isinstance(value, dict | OutsideModel) else "[stage]"


ModelSource = Annotated[
    Annotated[str, Tag("[stage]")] | Annotated[OutsideModel, Tag("[outside]")], Discriminator(_is_outside)
]
"""A stage's name, or a model made elsewhere."""
LANGUAGE_MODELS = (ArtifactKind.CAUSAL_LM, ArtifactKind.MASKED_LM, ArtifactKind.SEQ2SEQ_LM)
"""What pretraining makes of a decoder, an encoder and an encoder-decoder."""

TokenizerRef = Annotated[str, Consumes((ArtifactKind.TOKENIZER,))]
CausalLMRef = Annotated[ModelSource, Consumes((ArtifactKind.CAUSAL_LM,))]
LanguageModelRef = Annotated[ModelSource, Consumes(LANGUAGE_MODELS)]
RewardModelRef = Annotated[str, Consumes((ArtifactKind.REWARD_MODEL,))]


def as_tuple(value: Any) -> Any:
    """One item may be written bare; a list is a tuple, since sections are frozen."""
    if isinstance(value, list):
        return tuple(value)
    return value if isinstance(value, tuple) else (value,)


Bare = BeforeValidator(as_tuple)

Unit = Literal["tokens", "steps", "epochs", "rollouts"]
_UNITS = {"token": "tokens", "step": "steps", "epoch": "epochs", "rollout": "rollouts"}
_SCALES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
_DURATION = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?)\s*([kKMBGT]?)\s*([a-z]+)")


class Duration(Section):
    """How long to train, one value with its unit: `600M tokens`, `2 epochs`, `300 steps`, `300 rollouts`."""

    amount: float
    unit: Unit

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, Duration):
            return value
        if isinstance(value, dict | list | tuple):
            raise ValueError("is one value with its unit: '600M tokens', '2 epochs' or '300 steps'")
        text = "null" if value is None else str(value)
        found = _DURATION.fullmatch(text.strip())
        unit = found and (found[3] if found[3] in _UNITS.values() else _UNITS.get(found[3]))
        if not found or not unit:
            raise ValueError(f"'{text}' is not a duration; write for example '600M tokens', '2 epochs' or '300 steps'")
        amount = _scaled(found[1], _SCALES[found[2]])
        if amount <= 0:
            raise ValueError(f"'{text}' is no time at all; give a number above zero")
        if unit != "epochs" and amount != int(amount):
            raise ValueError(f"'{text}': only epochs may be a fraction")
        return {"amount": amount, "unit": unit}

    @model_serializer
    def _write(self) -> str:
        return str(self)

    def __str__(self) -> str:
        amount = int(self.amount) if self.amount == int(self.amount) else self.amount
        return f"{amount} {self.unit}"

    def only(self, *units: Unit) -> Self:
        """Raise ValueError unless the unit is one of these."""
        if self.unit not in units:
            raise ValueError(f"'{self}' does not fit here; give {' or '.join(units)}")
        return self


def _scaled(digits: str, scale: int) -> float:
    value = float(digits.replace("_", "")) * scale
    if math.isinf(value):
        raise ValueError("needs a number with fewer digits")
    return value


_BYTES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_bytes(value: Any) -> Any:
    """`500 MB` as a number of bytes; a plain number stays what it is."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"([0-9][0-9_]*(?:\.[0-9]+)?)\s*([kKMGT]?B)", value.strip())
    if not found:
        raise ValueError(f"'{value}' is not a size; write for example '500 MB' or '2 GB'")
    return int(_scaled(found[1], _BYTES[found[2]]))


Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]
