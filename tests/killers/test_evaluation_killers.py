"""Silent killers of evaluation: each is planted, and must be seen, or cannot be planted at all."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_subject import tiny_model
from tiny_task import LINES, write_task

from pipelines.evaluation.bits import chunks
from pipelines.evaluation.harness import SubjectLM, score_task
from pipelines.evaluation.subject import Request, Subject
from pipelines.recipe.evaluation import TaskConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return write_task(tmp_path)


def scored(subject: Subject, task: Path) -> dict:
    return score_task(subject, TaskConfig(name="mine"), {str(task): ""}, task.parent, apply_chat_template=False)[0]


def load(folder: Path, **model) -> Subject:
    return Subject.load(tiny_model(folder, **model))


@pytest.mark.parametrize("add_bos_token", [True, False])
def test_2_a_text_starts_in_evaluation_as_it_did_in_training(tmp_path, add_bos_token):
    subject = load(tmp_path / "model", add_bos_token=add_bos_token)
    lm, text = SubjectLM(subject), "Today Mia is in the garden."
    trained = subject.tokens.document(text)[:-1]
    request = lm.request(text, " Mia")
    assert lm.tok_encode(text) == trained
    assert request.context + request.target == subject.tokens.document(text + " Mia")[:-1]
    assert (subject.bos == [0]) is add_bos_token
    assert subject.settings["bos_policy"] == ("bos" if add_bos_token else "none")
    whole = [token for part in chunks(trained, 256) for token in part.target]
    assert whole == trained[1:]  # with BOS every token of the text is scored, without it the first one is given
    empty = lm.request("", "Today Mia")
    assert empty.context + empty.target == subject.tokens.document("Today Mia")[:-1]


def test_2_bos_matters_to_the_score_and_is_there_once(tmp_path):
    subject = load(tmp_path / "model")
    text = subject.encode("Today Mia")
    with_bos, without = subject.log_likelihoods([Request([0, *text], [9]), Request(text, [9])])
    assert with_bos != without
    assert SubjectLM(subject).tok_encode("<|bos|>Today").count(0) == 1  # spelled in text, it is plain characters


def test_45_two_models_never_share_answers(tmp_path, task):
    first, second = (load(tmp_path / str(seed), seed=seed) for seed in (1, 2))
    request = Request([0], [9, 12])
    assert first.log_likelihoods([request]) != second.log_likelihoods([request])
    scored(first, task)
    assert not list(Path(tmp_path).rglob("*.db"))


def test_46_every_item_counts_once_whatever_the_batch_size(tmp_path, task):
    subject = load(tmp_path / "model")
    found = []
    for batch_size in (1, 3, 8):
        subject.batch_size = batch_size
        found.append(scored(subject, task))
    assert found[0] == found[1] == found[2]
    assert found[0]["n"] == len(LINES)


def test_46_a_planted_wrong_padding_side_would_be_seen(tmp_path, monkeypatch):
    subject = load(tmp_path / "model")
    prompts = [[0, 50, 60], [0, 50, 60, 70, 80, 90]]
    alone = [subject.complete([prompt], max_new_tokens=8)[0] for prompt in prompts]

    def right_padded(rows, pad_id, length=None):
        width = max(map(len, rows))
        ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows])
        return ids, torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])

    assert subject.complete(prompts, max_new_tokens=8) == alone
    monkeypatch.setattr("pipelines.evaluation.subject.left_padded", right_padded)
    assert subject.complete(prompts, max_new_tokens=8) != alone


@pytest.mark.slow
def test_6_lm_eval_s_own_model_class_gives_the_same_numbers(tmp_path):
    """The oracle: HFLM on the same weights and tokenizer."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    subject = load(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    theirs = HFLM(pretrained=subject.model, tokenizer=tokenizer, backend="causal", add_bos_token=True, batch_size=3)
    pairs = [("Today Mia is in the", " garden"), ("Who?", " Tom has the red drum."), ("", "Today"), ("Now", " the end")]
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    ours = SubjectLM(subject)
    # The fixture's tokenizer adds no BOS by itself, as no tokenizer of ours does; HFLM would rely on that.
    theirs.tok_encode = ours.tok_encode
    for mine, other in zip(ours.loglikelihood(requests), theirs.loglikelihood(requests), strict=True):
        assert mine[0] == pytest.approx(other[0], abs=1e-4)
        assert mine[1] == other[1]


RANK_SCRIPT = """
import json, sys
from pathlib import Path
import torch
from pipelines.evaluation.harness import score_task
from pipelines.evaluation.subject import Request, Subject
from pipelines.recipe.evaluation import TaskConfig
torch.set_num_threads(1)
model, task, out = map(Path, sys.argv[1:])
subject = Subject.load(model)
config = TaskConfig(name="mine", num_fewshot=2)
requests = [Request([0, *range(10, 10 + n)], [9, 12]) for n in (1, 5, 9, 30, 58)]
prompts = [r.context for r in requests]
found = {
    "world": subject.world_size,
    "score": score_task(subject, config, {str(task): ""}, task.parent / "s", apply_chat_template=False),
    "sums": subject.log_likelihoods(requests),
    "texts": subject.complete(prompts, max_new_tokens=6),
    "one": subject.log_likelihoods(requests[:1]),
}
(out / f"{subject.rank}.json").write_text(json.dumps(found))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_46_two_processes_give_the_scores_of_one(tmp_path, task):
    folder = tiny_model(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = tmp_path / "rank.py"
    script.write_text(RANK_SCRIPT)
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder), str(task), str(tmp_path)],
            env=os.environ | group | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": str(ROOT)},
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=180) for rank in ranks] == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second and first["world"] == 2

    subject = Subject.load(folder)
    requests = [Request([0, *range(10, 10 + n)], [9, 12]) for n in (1, 5, 9, 30, 58)]
    alone = score_task(
        subject, TaskConfig(name="mine", num_fewshot=2), {str(task): ""}, task.parent / "s1", apply_chat_template=False
    )
    assert first["score"] == alone
    expected = [total for total, _ in subject.log_likelihoods(requests)]
    assert [total for total, _ in first["sums"]] == pytest.approx(expected, abs=1e-5)
    assert first["texts"] == subject.complete([request.context for request in requests], max_new_tokens=6)
