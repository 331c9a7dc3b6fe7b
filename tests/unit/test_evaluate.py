"""Scores of a model: its own tokens, one separator, and nothing that depends on batches."""

import json
import math
from pathlib import Path

import pytest
import torch
from tiny_subject import tiny_model
from tiny_task import LINES, TASK, write_task

from pipelines.data.tokens import TokenWriter
from pipelines.errors import DataError
from pipelines.evaluation import metrics
from pipelines.evaluation.bits import chunks, score_bits
from pipelines.evaluation.harness import SubjectLM, score_task
from pipelines.evaluation.subject import Request, Subject
from pipelines.evaluation.tasks import TaskFile
from pipelines.recipe.evaluation import TaskConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def subject(folder: Path) -> Subject:
    return Subject.load(folder)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return write_task(tmp_path)


def score(subject: Subject, task: Path, **config) -> list[dict]:
    chat = config.pop("apply_chat_template", False)
    chosen = TaskConfig(name="mine", **config)
    return score_task(subject, chosen, {str(task): ""}, task.parent / "scratch", apply_chat_template=chat)


def by_hand(subject: Subject, context: list[int], target: list[int]) -> float:
    """Log-probability of the target, one whole forward pass, nothing shared and nothing padded."""
    ids = torch.tensor([context + target])
    with torch.no_grad():
        log_probs = subject.model(input_ids=ids).logits.log_softmax(-1)[0]
    return sum(log_probs[len(context) + place - 1, token].item() for place, token in enumerate(target))


def requests(subject: Subject) -> list[Request]:
    """Seven rows of 3 to 60 tokens."""
    text = subject.encode(
        "Today Mia is in the garden. Mia has a red drum. Tom is in the mill. A blue kite is in the cave. " * 3
    )
    lengths = [3, 7, 11, 20, 33, 47, 60]
    return [Request(subject.bos + text[: length - 2], text[length - 2 : length]) for length in lengths]


def test_log_likelihoods_are_those_of_a_plain_forward_pass(subject):
    found = subject.log_likelihoods(requests(subject))
    for request, (total, _) in zip(requests(subject), found, strict=True):
        assert total == pytest.approx(by_hand(subject, request.context, request.target), abs=1e-4)


def test_a_target_longer_than_the_model_is_scored_in_parts(subject):
    half, bos = subject.max_length // 2, subject.bos
    ids = [5 + number * 7 % 300 for number in range(2 * half + 9)]
    (value, _), parts = subject.log_likelihoods([Request(bos, ids)])[0], 0.0
    for start in range(0, len(ids), half):
        before = bos + ids[:start]
        room = subject.max_length - (len(ids[start : start + half]) - 1)
        context = before if len(before) <= room else bos + before[len(before) - room + len(bos) :]
        parts += subject.log_likelihoods([Request(context, ids[start : start + half])])[0][0]
    assert value == pytest.approx(parts, abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7, 8])
def test_log_likelihoods_do_not_depend_on_the_batch_size(subject, batch_size):
    expected = [total for total, _ in subject.log_likelihoods(requests(subject))]
    subject.batch_size = batch_size
    assert [total for total, _ in subject.log_likelihoods(requests(subject))] == pytest.approx(expected, abs=1e-5)


def test_requests_that_share_all_but_the_last_token_are_scored_once_and_rightly(subject, monkeypatch):
    context, options = subject.bos + subject.encode("Mia is in the"), [[9], [12], [30]]
    rows = []
    score_rows = subject._score
    monkeypatch.setattr(subject, "_score", lambda batch, targets: rows.extend(batch) or score_rows(batch, targets))
    found = subject.log_likelihoods([Request(context, option) for option in options])
    assert len(rows) == 1
    assert [total for total, _ in found] == pytest.approx([by_hand(subject, context, o) for o in options], abs=1e-4)


def test_greedy_answers_are_marked_as_such(subject):
    context = subject.bos + subject.encode("Mia is in the")
    best = subject.complete([context], max_new_tokens=3)[0]
    assert best
    assert subject.log_likelihoods([Request(context, best)])[0][1]
    assert not subject.log_likelihoods([Request(context, [best[0] + 1, *best[1:]])])[0][1]


def test_completions_do_not_depend_on_padding_and_batch(subject):
    prompts = [request.context for request in requests(subject)]
    alone = [subject.complete([prompt], max_new_tokens=12)[0] for prompt in prompts]
    assert subject.complete(prompts, max_new_tokens=12) == alone


def test_a_context_that_does_not_fit_keeps_its_bos_and_its_end_and_is_counted(tmp_path):
    subject = Subject.load(tiny_model(tmp_path / "model", max_length=16))
    long = subject.bos + list(range(10, 50))
    assert subject.fit(long, 4) == [*subject.bos, *range(39, 50)]
    assert subject.truncated == 1
    with pytest.raises(DataError, match="ask for fewer"):
        subject.fit(long, 16)


def test_lm_eval_scores_choices_as_we_do(subject, task):
    expected = []
    for line in LINES:
        prompt = subject.bos + subject.encode(line["question"])
        totals = [by_hand(subject, prompt, subject.encode(" " + option.strip())) for option in line["options"]]
        expected.append(totals.index(max(totals)) == line["answer"])
    row = score(subject, task)[0]
    assert row["value"] == pytest.approx(sum(expected) / len(expected))


def test_every_score_says_how_it_was_measured(subject, task):
    (row,) = score(subject, task, limit=4, num_fewshot=1)
    assert {key: row[key] for key in row if key not in ("value", "stderr")} == {
        "task": "mine",
        "metric": "acc",
        "higher_is_better": True,
        "version": 7,
        "num_fewshot": 1,
        "limit": 4,
        "n": 4,
        "apply_chat_template": False,
        "template_digest": None,
        "truncated": 0,
        "bos_policy": "bos",
        "dtype": "float32",
    }
    assert type(row["value"]) is type(row["stderr"]) is float
    assert json.loads(json.dumps(row)) == row


def test_in_chat_form_the_prompt_is_the_template_s_and_its_digest_is_noted(subject, task):
    (row,) = score(subject, task, apply_chat_template=True)
    assert row["apply_chat_template"] is True
    assert row["template_digest"] == subject.template_digest
    lm = SubjectLM(subject)
    text = lm.apply_chat_template([{"role": "user", "content": "Where is <|eos|>?"}])
    assert lm.tok_encode(text) == subject.tokens.prompt([{"role": "user", "content": "Where is <|eos|>?"}])
    assert subject.tokens.eos_id not in lm.tok_encode(text)
    assert lm.request(text, "here").target == subject.encode("here")


@pytest.mark.parametrize("context", ["Mia is in the", "Mia is in the "])
@pytest.mark.parametrize("choice", ["garden", " garden"])
def test_exactly_one_separator_stands_before_a_target(subject, tmp_path, context, choice):
    line = {"question": context, "options": [choice, "mill"], "answer": 0}
    path = write_task(tmp_path)
    (path.parent / "items.jsonl").write_text(json.dumps(line))
    task = TaskFile.read(path).build("mine", tmp_path / "scratch")
    task.set_config("num_fewshot", 0)
    task.build_all_requests()
    request = SubjectLM(subject).request(*task.instances[0].args)
    assert request.context + request.target == subject.bos + subject.encode("Mia is in the garden")


@pytest.mark.parametrize("target", ["garden", " garden"])
def test_a_loglikelihood_target_gets_one_separator_too(subject, tmp_path, target):
    text = TASK.replace("multiple_choice", "loglikelihood").replace("doc_to_choice: options\n", "")
    path = write_task(tmp_path, text)
    (path.parent / "items.jsonl").write_text(json.dumps({"question": "Mia is in the", "answer": target}))
    task = TaskFile.read(path).build("mine", tmp_path / "scratch")
    task.set_config("num_fewshot", 0)
    task.build_all_requests()
    assert task.instances[0].args == ("Mia is in the", " garden")


GENERATION = """\
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: prompt
doc_to_target: target
generation_kwargs: {until: ["."], max_gen_toks: 24, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.mark.parametrize(
    ("said", "right"),
    [(" Now Zoe finds books. Now", 1.0), ("Now Zoe finds books.", 1.0), (" Now Zoe finds cups.", 0.0)],
)
def test_a_greedy_sentence_is_right_with_and_without_the_separator(subject, tmp_path, monkeypatch, said, right):
    path = write_task(tmp_path, GENERATION)
    items = [
        {"prompt": "What does Zoe do?", "target": target} for target in ("Now Zoe finds books", " Now Zoe finds books")
    ]
    (path.parent / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    monkeypatch.setattr(subject, "complete", lambda prompts, *, max_new_tokens: [subject.encode(said) for _ in prompts])
    (row,) = score(subject, path)
    assert (row["metric"], row["value"], row["n"]) == ("exact_match", right, 2)


def test_a_task_that_does_not_say_how_long_gets_lm_evals_own_length_or_half_of_the_model(
    subject, tmp_path, monkeypatch
):
    path = write_task(tmp_path, GENERATION.replace(", max_gen_toks: 24", ""))
    (path.parent / "items.jsonl").write_text(json.dumps({"prompt": "What does Zoe do?", "target": "sing"}))
    asked = []
    monkeypatch.setattr(
        subject, "complete", lambda prompts, *, max_new_tokens: asked.append(max_new_tokens) or [[] for _ in prompts]
    )
    for length in (128, 4096):
        monkeypatch.setattr(subject.model.config, "max_position_embeddings", length)
        score(subject, path)
    assert asked == [64, 256]


def test_a_target_without_a_prompt_starts_the_text(subject, tmp_path):
    path = write_task(tmp_path, TASK.replace("doc_to_text: question", 'doc_to_text: ""'))
    task = TaskFile.read(path).build("mine", tmp_path / "scratch")
    task.set_config("num_fewshot", 0)
    task.build_all_requests()
    request = SubjectLM(subject).request(*task.instances[0].args)
    assert (request.context, request.target) == (subject.bos, subject.encode("garden"))


def test_more_shots_than_there_are_is_one_line(subject, task):
    assert score(subject, task, num_fewshot=4)[0]["num_fewshot"] == 4
    with pytest.raises(DataError, match="num_fewshot: 5, but only 4 worked examples") as error:
        score(subject, task, num_fewshot=5)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TASK + "process_docs: !function steal.run\n", "would run code"),
        (TASK + "process_docs: docs\n", "holds no code"),
        (TASK + "doc_to_txt: question\n", "unknown key 'doc_to_txt'"),
        ("builtin: microworld/nothing\n", "is none of microworld/comprehension"),
        ("task: mine\n", "give one of builtin and dataset_path"),
        ("group: many\n", "one by one"),
        ("- a\n- b\n", "a mapping"),
        ("a: [\n", "mine.yaml:2:1"),
        (TASK.replace("items.jsonl", "none.jsonl"), "none.jsonl"),
        (TASK.replace("doc_to_text: question", "doc_to_text: '{{nothing}}'"), "nothing"),
    ],
)
def test_a_task_file_that_cannot_be_used_is_one_line(subject, tmp_path, text, said):
    path = write_task(tmp_path, text)
    with pytest.raises(DataError, match=r"mine\.yaml") as error:
        score(subject, path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_included_file_is_laid_under(tmp_path):
    path = write_task(tmp_path)
    (path.parent / "other.yaml").write_text("include: mine.yaml\ndoc_to_text: other\n")
    config = TaskFile.read(path.parent / "other.yaml").config
    assert (config["doc_to_text"], config["doc_to_choice"]) == ("other", "options")


def test_an_unknown_task_is_one_line(subject, monkeypatch):
    monkeypatch.setattr(
        "lm_eval.tasks.TaskManager", lambda: type("M", (), {"all_subtasks": [], "all_tasks": ["mmlu"]})()
    )
    with pytest.raises(DataError, match=r"task 'nothing'.*unknown to lm-eval"):
        score_task(subject, TaskConfig(name="nothing"), {}, Path("unused"), apply_chat_template=False)
    with pytest.raises(DataError, match=r"task 'mmlu'.*a group"):
        score_task(subject, TaskConfig(name="mmlu"), {}, Path("unused"), apply_chat_template=False)


def texts(folder: Path, rows: list[str], subject: Subject) -> Path:
    """A tokens artifact whose holdout are these texts."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = TokenWriter(folder, format="text", vocab_size=subject.tokens.vocab_size)
    ids = subject.tokens.documents(rows)
    writer.append("holdout", {"input_ids": ids, "num_bytes": [len(row.encode()) for row in rows]})
    writer.close()
    return folder


def test_bits_per_byte_are_those_of_whole_documents_without_their_end(subject, tmp_path):
    rows = ["Today Mia is in the garden.", "Tom has a red drum. He goes to the mill.", "Ö"]
    (row,) = score_bits(subject, TaskConfig(name="bits_per_byte", data="t"), texts(tmp_path / "t", rows, subject))
    nats = [by_hand(subject, document[:1], document[1:-1]) for document in subject.tokens.documents(rows).tolist()]
    assert row["value"] == pytest.approx(-sum(nats) / math.log(2) / len("".join(rows).encode()), abs=1e-5)
    assert (row["n"], row["bytes"], row["higher_is_better"]) == (3, len("".join(rows).encode()), False)
    assert row["stderr"] > 0


def test_bits_per_byte_of_a_tokenizer_that_changes_text_stand_apart(subject, tmp_path, monkeypatch):
    folder, task = texts(tmp_path / "t", ["Today Mia is here."], subject), TaskConfig(name="bits_per_byte", data="t")
    assert score_bits(subject, task, folder)[0]["task"] == "bits_per_byte/t"
    monkeypatch.setattr(subject.tokens, "changes_text", True)
    assert score_bits(subject, task, folder)[0]["task"] == "bits_per_byte/t of changed text"


def test_a_long_document_is_cut_as_lm_eval_cuts_it():
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    ids = list(range(100, 137))
    parts = chunks([0, *ids], 8)
    assert [token for part in parts for token in part.target] == ids
    theirs = [make_disjoint_window(w) for w in get_rolling_token_windows(ids, 0, max_seq_len=8, context_len=1)]
    assert [(part.context, part.target) for part in parts[:-1]] == theirs[:-1]


def test_a_dataset_without_a_holdout_is_one_line(subject, tmp_path):
    folder = texts(tmp_path / "t", [""], subject)
    with pytest.raises(DataError, match="nothing of dataset 't' is held out; raise its holdout"):
        score_bits(subject, TaskConfig(name="bits_per_byte", data="t"), folder)


def test_standard_errors_are_those_of_the_textbook():
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    mean, stderr = metrics.mean(values)
    assert (mean, stderr) == (pytest.approx(0.6), pytest.approx(math.sqrt(0.3 / 5)))
    assert metrics.mean([2.0]) == (2.0, None)
    assert metrics.ratio(values, [1.0] * 5) == (pytest.approx(mean), pytest.approx(stderr))
