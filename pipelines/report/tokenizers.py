"""What the report says of tokenizers, and of those that they are compared with."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipelines.plan.estimate import embedding_parameters
from pipelines.plan.jobs import Job, Plan
from pipelines.store.artifacts import Artifact


class LengthFacts(BaseModel):
    """How long tokens are on one part of the held-out text."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    bytes_per_token: float
    tokens_per_word: float


class VocabularyFacts(LengthFacts):
    """One tokenizer on the held-out text of its stage's datasets."""

    name: str
    """The stage's, or what a finished one is called."""
    vocab_size: int
    asked: int | None = None
    """The size that the recipe asked for, where the text gave another."""
    unused_share: float
    """Of the entries: never used in the sample."""
    rare_share: float
    """Used fewer than ten times."""
    failures: int
    """Texts of the sample that do not come back as they were."""
    texts: int
    unknown_share: float
    """Of the tokens: `<unk>`."""
    embedding_parameters: int | None = None
    """What so many entries cost in the recipe's model."""
    sources: dict[str, LengthFacts] = {}
    """By dataset."""
    languages: dict[str, LengthFacts] = {}
    longest: list[str] = []
    examples: dict[str, list[str]] = {}
    """Kind of text -> the parts of one that are a token each."""


class SizeFacts(BaseModel):
    """A tokenizer of another size, trained on a part of the text."""

    model_config = ConfigDict(frozen=True)

    vocab_size: int
    bytes_per_token: float


class TokenizerFacts(BaseModel):
    """A tokenizer stage."""

    model_config = ConfigDict(frozen=True)

    stage: str
    vocabularies: list[VocabularyFacts]
    """Its own first."""
    sweep: list[SizeFacts] = []

    @property
    def datasets(self) -> list[str]:
        """Those that every vocabulary was measured on."""
        return list(self.vocabularies[0].sources)


def tokenizers(plan: Plan, done: Mapping[str, Artifact]) -> list[TokenizerFacts]:
    """Of every tokenizer stage that was measured."""
    found = []
    for job in plan.jobs:
        if job.kind != "tokenizer" or job.name not in done:
            continue
        own = _read(done[job.name].record / "tokenizer.json")
        beside = plan.by_name.get(f"vocabulary-{job.name}")
        others = _read(done[beside.name].output / "vocabulary.json") if beside and beside.name in done else {}
        measured_by = beside if not own and beside else job
        own = own or others.get("own", {})
        if own:
            found.append(_facts(plan, job, measured_by, own, others))
    return found


def _facts(plan: Plan, job: Job, measured_by: Job, own: dict[str, Any], others: dict[str, Any]) -> TokenizerFacts:
    beside = plan.by_name.get(f"vocabulary-{job.name}", measured_by)
    vocabularies = [_vocabulary(plan, measured_by, {"name": job.name} | own)]
    vocabularies += [_vocabulary(plan, beside, one) for one in others.get("compare", ())]
    sweep = [SizeFacts(vocab_size=one["vocab_size"], bytes_per_token=one["bytes_per_token"])
             for one in others.get("sweep", ())]  # fmt: skip
    return TokenizerFacts(stage=job.name, vocabularies=vocabularies, sweep=sweep)


def _vocabulary(plan: Plan, job: Job, facts: dict[str, Any]) -> VocabularyFacts:
    """Roles become the names that datasets have today."""
    named = {plan.by_name[job.inputs[role].job].stage: found for role, found in facts["sources"].items()}
    sources = {name: named[name] for name in plan.recipe.data if name in named}
    known = {name: value for name, value in facts.items() if name in VocabularyFacts.model_fields}
    asked = facts.get("asked")
    return VocabularyFacts.model_validate(
        known
        | {
            "sources": sources,
            "asked": asked if asked != facts["vocab_size"] else None,
            "embedding_parameters": embedding_parameters(plan.recipe.model, facts["vocab_size"]),
        }
    )


def _read(path: Any) -> dict[str, Any]:
    """Empty where an older program measured nothing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
