"""lm-eval in process: the model under evaluation as an lm-eval model, and one task's scores."""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import lm_eval.api.task
from jinja2 import TemplateError
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, TemplateLM
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate
from tqdm import tqdm

from pipelines.errors import DataError
from pipelines.evaluation.bits import chunks
from pipelines.evaluation.subject import Request, Subject
from pipelines.evaluation.tasks import TaskFile
from pipelines.recipe.evaluation import TaskConfig

SHOTS_SEED = 1234
"""Which worked examples are shown: the same for every model and every recipe."""
BOOTSTRAPS = 1000


class SubjectLM(TemplateLM):
    """Every process builds all requests and receives all answers; the model's work is shared out in `Subject`.

    So shots, order and sums do not depend on the number of processes, and tokens are those of training.
    """

    def __init__(self, subject: Subject):
        super().__init__()
        self.subject = subject
        self.rendered: dict[str, list[int]] = {}
        """Ids of the chat prompts made so far: text alone no longer says which `<|...|>` is a token."""

    @property
    def eot_token_id(self) -> int:
        return self.subject.tokens.eos_id

    @property
    def tokenizer_name(self) -> str:
        return ""

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        if string in self.rendered:
            return list(self.rendered[string])
        ids = self.subject.encode(string)
        return ids if add_special_tokens is False else self.subject.bos + ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        if not add_generation_prompt:
            raise DataError("gen_prefix in chat form is not supported: a prompt ends with the user's turn")
        ids = self.subject.tokens.prompt(chat_history)
        text = self.subject.tokens.decode(ids, skip_special=False)
        self.rendered[text] = ids
        return text

    def request(self, context: str, continuation: str) -> Request:
        """A prompt and what is scored after it. Without BOS, a target without a prompt starts from its first token."""
        if context in self.rendered:
            return Request(self.rendered[context], self.subject.encode(continuation))
        if context:
            before, after = self._encode_pair(context, continuation)
        else:
            before, after = self.subject.bos, self.subject.encode(continuation)
        if not before:
            before, after = after[:1], after[1:]
        if not after:
            raise DataError(f"nothing is left to score in the target {continuation!r} after {context[-40:]!r}")
        return Request(before, after)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self.subject.log_likelihoods([self.request(*request.args[:2]) for request in requests])

    def _loglikelihood_tokens(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self.subject.log_likelihoods([Request(context, target) for _, context, target in requests])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        texts = [self.tok_encode(request.args[0]) for request in requests]
        parts = [chunks(ids, self.subject.max_length) for ids in texts]
        found = iter(self.subject.log_likelihoods([part for document in parts for part in document]))
        return [sum(next(found)[0] for _ in document) for document in parts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        answers: list[str] = [""] * len(requests)
        groups: dict[int, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(new_tokens(request.args[1], self.subject.max_length), []).append(number)
        for most, numbers in groups.items():
            prompts = [self.tok_encode(requests[number].args[0]) for number in numbers]
            for number, ids in zip(numbers, self.subject.complete(prompts, max_new_tokens=most), strict=True):
                answers[number] = before_stops(self.subject.decode(ids), requests[number].args[1].get("until") or [])
        return answers


def new_tokens(settings: Mapping[str, Any], max_length: int) -> int:
    """As many as the task says, or lm-eval's own 256, which a short model could not hold beside a prompt."""
    if settings.get("do_sample") or settings.get("temperature"):
        raise DataError("this task asks for sampled answers; benchmarks are answered greedily here (do_sample: false)")
    return int(settings.get("max_gen_toks") or settings.get("max_new_tokens") or min(256, max_length // 2))


def before_stops(text: str, until: list[str] | str) -> str:
    """What comes before the first stop string."""
    for stop in [until] if isinstance(until, str) else until:
        if stop:
            text = text.split(stop)[0]
    return text


class Scored(Protocol):
    """What a row of scores says of the model beside them."""

    truncated: int

    @property
    def template_digest(self) -> str | None: ...

    @property
    def settings(self) -> dict[str, Any]: ...


def score_task(
    subject: Scored, config: TaskConfig, files: Mapping[str, str], scratch: Path, *, apply_chat_template: bool
) -> list[dict[str, Any]]:
    """One row per metric. `subject` is a Subject, or a model that lm-eval asks by itself. `files` are the job's local
    files; a name that is none of them is one of lm-eval's own."""
    path = task_file(config.name, files)
    with quiet():
        if path:
            file = TaskFile.read(path)
            task = file.build(config.name, scratch, with_shots=config.num_fewshot > 0, limit=config.limit)
            chat = file.chat or apply_chat_template
        else:
            task, chat = standard_task(config.name), apply_chat_template
        _set_shots(task, config)
        before = subject.truncated
        results = _evaluate(subject, config, task, chat)
    shared = {
        "version": task.VERSION,
        "num_fewshot": config.num_fewshot,
        "limit": config.limit,
        "n": results["n-samples"][config.name]["effective"],
        "apply_chat_template": chat,
        "template_digest": subject.template_digest if chat else None,
        "truncated": subject.truncated - before,
    }
    better = results["higher_is_better"][config.name]
    return [
        {"task": config.name, "metric": metric, **value, "higher_is_better": better.get(metric.split(",")[0])}
        | shared
        | subject.settings
        for metric, value in _metrics(results["results"][config.name]).items()
    ]


def _evaluate(subject: Scored, config: TaskConfig, task: Task, chat: bool) -> Mapping[str, Any]:
    try:
        return evaluate(
            lm=subject if isinstance(subject, LM) else SubjectLM(cast(Subject, subject)),
            task_dict={"tasks": {config.name: task}},
            limit=config.limit,
            bootstrap_iters=BOOTSTRAPS,
            log_samples=False,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
    except TemplateError as error:
        raise DataError(f"task '{config.name}': {error}; its templates name what a row has not") from error


def _metrics(results: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """lm-eval's `acc,none`, `acc_stderr,none`: the filter is named only where it is one."""
    found: dict[str, dict[str, float | None]] = {}
    for key, value in results.items():
        metric, comma, filter_name = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        stderr = results.get(f"{metric}_stderr,{filter_name}")
        name = metric if filter_name == "none" else f"{metric},{filter_name}"
        found[name] = {"value": float(value), "stderr": float(stderr) if isinstance(stderr, int | float) else None}
    return found


def task_file(name: str, files: Iterable[str]) -> Path | None:
    """The local file of a task, among those of a job."""
    return next((Path(file) for file in files if file.endswith(f"/tasks/{name}.yaml")), None)


def standard_task(name: str) -> Task:
    """A task that lm-eval ships; indexing them all takes seconds, so only where one is asked for."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    if name not in manager.all_subtasks:
        hint = "a group; name its tasks one by one" if name in manager.all_tasks else "unknown to lm-eval too"
        raise DataError(f"task '{name}': there is no recipes/tasks/{name}.yaml, and the name is {hint}")
    try:
        return manager.load([name])["tasks"][name]
    except Exception as error:  # whatever a Hub library raises when data cannot be had
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"task '{name}': lm-eval's data for it cannot be had here: {reason}") from error


def _set_shots(task: Task, config: TaskConfig) -> None:
    """Refuses more worked examples than there are."""
    task.set_config(key="num_fewshot", value=config.num_fewshot)
    task.set_fewshot_seed(seed=SHOTS_SEED)
    if not config.num_fewshot:
        return
    pool = len(task.sampler.fewshot_docs()) if hasattr(task, "sampler") else 0
    own = task.config.fewshot_config.split if task.config.fewshot_config else None
    if own is None and not task.has_training_docs() and not task.has_validation_docs():
        own = task.config.test_split
    pool -= own is not None and own == task.config.test_split
    if config.num_fewshot > pool:
        raise DataError(
            f"task '{config.name}': num_fewshot: {config.num_fewshot}, but only {pool} worked examples are there; "
            f"ask for at most {pool}"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """lm-eval's bars and notices would fill the log."""
    logger, level = logging.getLogger("lm_eval"), logging.getLogger("lm_eval").level
    lm_eval.api.task.tqdm = partial(tqdm, disable=True)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = tqdm
        logger.setLevel(level)
