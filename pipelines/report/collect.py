"""Artifacts in, report.json out: the facts of a run, of which the page, the text and the table are renderings."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.plan.jobs import Job, Plan
from pipelines.report.contamination import ContaminationFacts, contamination
from pipelines.report.tokenizers import TokenizerFacts, tokenizers
from pipelines.store.artifacts import Artifact, ArtifactStore, Found, survey
from pipelines.store.durable import write_json

FORMAT = 3
"""Raise it when the same artifacts would now give another report."""
NAMES = ("report.json", "report.md", "report.html")
SETTINGS = (
    "version",
    "num_fewshot",
    "limit",
    "n",
    "apply_chat_template",
    "template_digest",
    "bos_policy",
    "dtype",
    "temperature",
    "max_completion_length",
    "num_beams",
    "length_penalty",
)
"""What two scores must share to stand in one row."""
MODELS = ("pretrain", "finetune", "sft", "reward", "dpo", "ppo")


class Fact(BaseModel):
    """One part of a report."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class StageFacts(Fact):
    """A job, finished or not."""

    name: str
    kind: str
    stage: str
    """The recipe's stage or dataset that it belongs to."""
    state: str
    """complete | absent | partial | damaged | stale"""
    fingerprint: str
    digest: str | None = None
    inputs: dict[str, str] = {}
    """Role -> name of the job that made it."""
    wall_seconds: float | None = None
    tokens_per_second: float | None = None
    metrics: dict[str, float | int | str] = {}
    record: str | None = None
    """Folder of its log and metrics.jsonl."""


class ScoreFacts(Fact):
    """One number with everything that it depends on."""

    stage: str
    """The stage whose model was scored."""
    evaluation: str
    """The evaluate stage that scored it."""
    task: str
    metric: str
    value: float
    stderr: float | None
    n: int
    higher_is_better: bool | None
    settings: dict[str, Any]


class DataFacts(Fact):
    """What became of the rows of a dataset."""

    name: str
    format: str
    rows_in: int
    rows_used: int
    dropped: int
    """Rows that are not used: unusable, taken out by quality filters, or removed when the dataset was cleaned."""
    dropped_by_reason: dict[str, int]
    would_drop: dict[str, int] = {}
    """What quality filters would take out, were this no dry run, by reason."""
    left_over: dict[str, int] = {}
    """Rows of a layout that are in no row of ours, by reason; they are not among the rows in."""
    changed: int = 0
    """Rows whose text quality filters changed, or would, and those out of which repeated runs of words were cut."""
    train: int
    holdout: int
    bytes: int
    tokens: int | None
    """Ids of its training rows, under the tokenizer that was used first."""


class UseFacts(Fact):
    """What one training stage took from one dataset."""

    stage: str
    data: str
    share: float
    rows_in: int | None
    rows_used: int | None
    tokens: int | None
    epochs: float | None = None
    """Passes over it by the end."""
    documents_cut: int | None = None
    """Documents that stand in more than one piece."""


class SampleFacts(Fact):
    """A prompt and how one stage's model goes on."""

    stage: str
    kind: str
    prompt: str
    completion: str


class WordFacts(Fact):
    """What one stage's embeddings say of the words that a task names."""

    stage: str
    neighbours: dict[str, list[tuple[str, float]]]
    """Word -> the nearest ones with their cosines, nearest first."""
    points: dict[str, tuple[float, float]]
    """Word -> where it lies on the plane of the two principal components."""
    explained: tuple[float, float]
    """Share of the variance along each."""


class Edge(Fact):
    """What one job read of another."""

    source: str
    target: str
    role: str


class Report(Fact):
    """The facts of a run."""

    format: int
    key: str
    """Digest of everything that this report is made of: the same key, the same report."""
    name: str
    recipe_file: str
    recipe: str
    """The file's text."""
    resolved: dict[str, Any]
    """Every value in force, defaults included."""
    stages: list[StageFacts]
    scores: list[ScoreFacts]
    lineage: list[Edge]
    data: list[DataFacts]
    uses: list[UseFacts]
    samples: list[SampleFacts]
    words: list[WordFacts] = []
    tokenizers: list[TokenizerFacts] = []
    contamination: list[ContaminationFacts] = []
    provenance: dict[str, Any]
    """Of the job that finished last: versions, commit, machine."""

    def stage(self, name: str) -> StageFacts:
        """The facts of one job."""
        return next(stage for stage in self.stages if stage.name == name)

    def models(self) -> list[str]:
        """Names of the stages that make models, each after the one it starts from."""
        return [stage.name for stage in self.stages if stage.kind in ("model", *MODELS)]


def write_report(plan: Plan, store: ArtifactStore, run_folder: Path) -> Path:
    """Write report.json, report.md and report.html into a run's folder, unless they are there already."""
    from pipelines.report.card import markdown
    from pipelines.report.html import page

    found = survey(plan, store)
    key = _key(plan, found)
    target = run_folder / "report.html"
    old = load_report(run_folder)
    if old and old.key == key and all((run_folder / name).is_file() for name in NAMES):
        return target
    report = collect(plan, store)
    run_folder.mkdir(parents=True, exist_ok=True)
    _write(run_folder / "report.md", markdown(report))
    _write(target, page(report))
    write_json(run_folder / "report.json", report.model_dump(mode="json"))  # last: it says that the others are there
    return target


def load_report(run_folder: Path) -> Report | None:
    """The report that a run's folder holds, if there is one that can be read."""
    try:
        return Report.model_validate_json((run_folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError, ValueError):
        return None


def collect(plan: Plan, store: ArtifactStore) -> Report:
    """Read manifests, scores.json and nothing heavier. Works on partial runs: what is missing is listed as not run."""
    found = survey(plan, store)
    done = {name: item.artifact for name, item in found.items() if item.artifact}
    finished = [(job, done[job.name]) for job in plan.jobs if job.name in done]
    scored = [(job, artifact) for job, artifact in finished if job.kind == "evaluate"]
    newest = max(done.values(), key=lambda artifact: artifact.provenance.get("created", ""), default=None)
    edges = [(job, role, item) for job in plan.jobs for role, item in job.inputs.items()]
    return Report(
        format=FORMAT,
        key=_key(plan, found),
        name=plan.recipe.name,
        recipe_file=plan.path.name,
        recipe=plan.path.read_text(encoding="utf-8"),
        resolved=plan.recipe.model_dump(mode="json"),
        stages=[_stage(job, found[job.name]) for job in plan.jobs],
        scores=[score for job, artifact in scored for score in _scores(job, artifact)],
        lineage=[Edge(source=item.job, target=job.name, role=role) for job, role, item in edges],
        data=[_data(plan, job, done) for job, _ in finished if job.kind == "data"],
        uses=[use for job, artifact in finished for use in _uses(plan, job, artifact)],
        samples=_unique(sample for job, artifact in scored for sample in _samples(job, artifact)),
        tokenizers=tokenizers(plan, done),
        contamination=contamination(plan, done),
        words=[word for job, artifact in scored for word in _words(job, artifact)],
        provenance=dict(newest.provenance) if newest else {},
    )


def _key(plan: Plan, found: Mapping[str, Found]) -> str:
    facts = [FORMAT, plan.path.name, plan.path.read_text(encoding="utf-8"), plan.recipe.model_dump(mode="json")]
    states = [[name, item.state, item.artifact.digest if item.artifact else None] for name, item in found.items()]
    return hashlib.sha256(json.dumps([facts, states], sort_keys=True).encode()).hexdigest()


def _write(path: Path, text: str) -> None:
    """Replace a file in one step."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def _stage(job: Job, found: Found) -> StageFacts:
    facts = StageFacts(
        name=job.name,
        kind=job.kind,
        stage=job.stage,
        state="stale" if found.changed_input else found.state,
        fingerprint=job.fingerprint,
        inputs={role: item.job for role, item in job.inputs.items()},
    )
    artifact = found.artifact
    if artifact is None:
        return facts
    speed = artifact.metrics.get("tokens_per_second")
    return facts.model_copy(
        update={
            "digest": artifact.digest,
            "wall_seconds": artifact.provenance.get("seconds"),
            "tokens_per_second": float(speed) if isinstance(speed, int | float) else None,
            "metrics": dict(artifact.metrics),
            "record": str(artifact.record),
        }
    )


def _scores(job: Job, artifact: Artifact) -> list[ScoreFacts]:
    """Named after the plan of today: a renamed stage keeps its scores."""
    return [
        ScoreFacts(
            stage=job.inputs["model"].job,
            evaluation=job.stage,
            settings={name: score[name] for name in SETTINGS if name in score},
            **{name: score[name] for name in ("task", "metric", "value", "stderr", "n", "higher_is_better")},
        )
        for score in _evaluation(artifact)["scores"]
    ]


def _samples(job: Job, artifact: Artifact) -> list[SampleFacts]:
    stage = job.inputs["model"].job
    return [SampleFacts(stage=stage, **sample) for sample in _evaluation(artifact)["samples"]]


def _words(job: Job, artifact: Artifact) -> list[WordFacts]:
    found = _evaluation(artifact).get("embeddings")
    return [WordFacts(stage=job.inputs["model"].job, **found)] if found else []


def _evaluation(artifact: Artifact) -> dict[str, Any]:
    return json.loads((artifact.output / "scores.json").read_text(encoding="utf-8"))


def _unique(samples: Iterable[SampleFacts]) -> list[SampleFacts]:
    """Two evaluate stages may ask the same model the same thing."""
    return list({(sample.stage, sample.kind, sample.prompt): sample for sample in samples}.values())


def _data(plan: Plan, job: Job, done: Mapping[str, Artifact]) -> DataFacts:
    """Of a dataset that is cleaned, what is left after that, once it is done."""
    clean = plan.by_name.get(f"clean-{job.stage}")
    last = clean if clean and clean.name in done else job
    info = json.loads((done[last.name].output / "info.json").read_text(encoding="utf-8"))
    filtered, is_dry = info.get("filtered", {}), info.get("dry_run", False)
    dropped = info["dropped"] | ({} if is_dry else filtered) | _removed(last, info.get("removed", {}))
    return DataFacts(
        name=job.stage,
        format=info["format"],
        dropped=sum(dropped.values()),
        dropped_by_reason=dropped,
        would_drop=filtered if is_dry else {},
        left_over=info.get("left_over", {}),
        changed=info.get("changed", 0) + info.get("cut", {}).get("rows", 0),
        tokens=_tokens(plan, last, done),
        **{name: info[name] for name in ("rows_in", "rows_used", "train", "holdout", "bytes")},
    )


def _removed(job: Job, removed: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Rows that cleaning removed, by reason and by the dataset of today that they are like."""
    return {
        f"{reason} of {job.spoken(of)}": count for reason, counts in removed.items() for of, count in counts.items()
    }


def _tokens(plan: Plan, data: Job, done: Mapping[str, Artifact]) -> int | None:
    """Training tokens of a dataset, from the first tokens job that read it."""
    for job in plan.jobs:
        if job.kind == "tokens" and job.name in done and data.name in {item.job for item in job.inputs.values()}:
            tokens = done[job.name].metrics.get("train_tokens")
            return int(tokens) if tokens is not None else None
    return None


def _uses(plan: Plan, job: Job, artifact: Artifact) -> list[UseFacts]:
    """Rows and tokens that a training stage took from each dataset."""
    if job.kind not in MODELS:
        return []
    uses = []
    for role, share in job.mixture:
        source = job.inputs[role].job
        counts = {}
        for name in ("rows_in", "rows_used", "tokens"):
            count = artifact.metrics.get(f"source_{source}_{name}")
            counts[name] = int(count) if isinstance(count, int | float) else None
        cut, epochs = (artifact.metrics.get(f"source_{source}_{name}") for name in ("documents_cut", "epochs"))
        uses.append(
            UseFacts(
                stage=job.name,
                data=plan.by_name[source].stage,
                share=share,
                epochs=float(epochs) if epochs is not None else None,
                documents_cut=int(cut) if cut is not None else None,
                **counts,
            )
        )
    return uses
