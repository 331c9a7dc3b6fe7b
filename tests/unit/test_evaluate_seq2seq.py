"""Encoder-decoders on lm-eval's tasks: likelihoods are teacher forcing's, answers are greedy, both on local files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from tiny_recipe import chain, write
from tiny_subject import tiny_tokenizer
from tiny_task import LINES, TASK, write_task
from transformers import AutoModelForSeq2SeqLM

from pipelines.errors import DataError
from pipelines.evaluation.harness import score_task
from pipelines.evaluation.seq2seq import Seq2SeqLM
from pipelines.plan.jobs import Input, Job
from pipelines.recipe.evaluation import EvaluateStage, TaskConfig
from pipelines.recipe.load import find_problems
from pipelines.recipe.model import ModelConfig
from pipelines.stages import evaluate
from pipelines.stages.base import LaunchSettings, StageContext
from pipelines.training.inputs import fresh_model, tokens_of
from pipelines.training.saving import save_model

torch.set_num_threads(1)
STORY = """\
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: "{{options[answer]}}"
generation_kwargs: {until: ["."], max_gen_toks: 7, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module", params=["t5", "transformer_2017"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp(request.param)
    (root / "tokenizer").mkdir()
    tiny_tokenizer(root / "tokenizer")
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"max_position_embeddings": 40, "architecture": "encoder_decoder", "style": request.param}
    model = fresh_model(ModelConfig.model_validate(sizes), tokens_of(root / "tokenizer"), 1)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    save_model(model, root / "tokenizer", root / "model")
    return root / "model"


def forced(folder: Path, prompt: str, target: str) -> tuple[float, bool]:
    """One row alone, by hand: `source eos` is read, and each token is guessed from those before it."""
    model, tokens = AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), tokens_of(folder)
    source, said = (tokens.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, target))
    start = torch.tensor([[model.config.decoder_start_token_id, *said[:-1]]])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*source, tokens.eos_id]]), decoder_input_ids=start).logits[0]
    log_probs = logits.log_softmax(-1)
    return log_probs[range(len(said)), said].sum().item(), bool((logits.argmax(-1) == torch.tensor(said)).all())


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, args, number) for number, args in enumerate(arguments)]


@pytest.mark.parametrize("batch_size", [1, 32])
def test_a_loglikelihood_is_that_of_teacher_forcing(folder: Path, batch_size: int) -> None:
    lm = Seq2SeqLM(folder, batch_size=batch_size)
    pairs = [(line["question"], f" {option.strip()}") for line in LINES for option in line["options"]]
    pairs += [("", " drum"), ("Who? ", "Ida")]
    found = lm.loglikelihood(asked("loglikelihood", *pairs))
    expected = [forced(folder, prompt.rstrip(), said.strip()) for prompt, said in pairs]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


@torch.no_grad()
def test_what_greedy_decoding_would_write_is_greedy(folder: Path) -> None:
    lm, said = Seq2SeqLM(folder), list[int]()
    for _ in range(3):
        ids = torch.tensor([[lm.model.config.decoder_start_token_id, *said]])
        logits = lm.model(input_ids=torch.tensor([lm.source("The")]), decoder_input_ids=ids).logits
        said.append(int(logits[0, -1].argmax()))
    rows = [(("", ""), lm.source("The"), ids) for ids in (said, [said[0] ^ 1, *said[1:]])]
    assert [greedy for _, greedy in lm._loglikelihood_tokens(rows)] == [True, False]


def test_a_local_task_of_choices_is_scored(folder: Path, tmp_path: Path) -> None:
    path = write_task(tmp_path)
    (row,) = score_task(
        Seq2SeqLM(folder), TaskConfig(name="mine"), {str(path): "0"}, tmp_path / "scratch", apply_chat_template=False
    )
    right = []
    for line in LINES:
        sums = [forced(folder, line["question"], option.strip())[0] for option in line["options"]]
        right.append(sums.index(max(sums)) == line["answer"])
    assert row["value"] == pytest.approx(sum(right) / len(right)) and row["n"] == 5
    assert (row["metric"], row["version"], row["bos_policy"], row["truncated"]) == ("acc", 7, "none", 0)


def test_answers_are_greedy_and_end_before_a_stop_string(folder: Path) -> None:
    lm = Seq2SeqLM(folder)
    settings = {"until": [], "max_gen_toks": 7, "do_sample": False}
    prompts = [line["question"] for line in LINES]
    found = lm.generate_until(asked("generate_until", *((prompt, settings) for prompt in prompts)))
    stops = {*lm.tokens.stop_ids, lm.tokens.pad_id}
    for prompt, answer in zip(prompts, found, strict=True):
        ids = lm.model.generate(torch.tensor([lm.source(prompt)]), max_new_tokens=7, do_sample=False)[0, 1:].tolist()
        end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
        assert answer == lm.renderer.decode(ids[:end])
    letter = next(one for one in found[0] if one.strip())
    (cut,) = lm.generate_until(asked("generate_until", (prompts[0], settings | {"until": [letter]})))
    assert cut == found[0].split(letter)[0]


def test_what_does_not_fit_is_cut_and_counted_or_refused(folder: Path) -> None:
    lm = Seq2SeqLM(folder)
    long = "the mill and the barn " * 20
    assert len(lm.source(long)) == 40 and lm.source(long)[-1] == 1 and lm.truncated == 2
    with pytest.raises(DataError, match="tokens; the model can say 1 to 40"):
        lm.loglikelihood(asked("loglikelihood", ("a", long)))
    with pytest.raises(DataError, match="has 0 tokens"):
        lm.loglikelihood(asked("loglikelihood", ("a", " ")))
    with pytest.raises(DataError, match="40 new tokens do not fit"):
        lm.generate_until(asked("generate_until", ("a", {"max_gen_toks": 40})))
    with pytest.raises(DataError, match="ask a causal LM"):
        lm.loglikelihood_rolling(asked("loglikelihood_rolling", ("a",)))


def test_conversations_are_refused(folder: Path, tmp_path: Path) -> None:
    path = write_task(tmp_path, TASK + "chat: true\n")
    with pytest.raises(DataError, match="encoder-decoders learn no conversations"):
        score_task(
            Seq2SeqLM(folder), TaskConfig(name="mine"), {str(path): "0"}, tmp_path / "x", apply_chat_template=False
        )


def test_the_stage_writes_its_scores(folder: Path, tmp_path: Path) -> None:
    path = write_task(tmp_path, STORY)
    config = {"kind": "evaluate", "models": ["tuned"], "tasks": [{"name": "mine", "limit": 4}]}
    job = Job(
        name="evaluate-tuned",
        stage="evaluate",
        config=EvaluateStage.model_validate_json(json.dumps(config)),
        seed=3,
        files={str(path): "0" * 64},
        inputs={"model": Input(job="tuned", fingerprint="f" * 64)},
    )
    ctx = StageContext(job=job, inputs={"model": folder}, workdir=tmp_path / "work", launch=LaunchSettings())
    ctx.output.mkdir(parents=True)
    assert evaluate.run(ctx) == {"mine.exact_match": 0.0}
    scores = json.loads((ctx.output / "scores.json").read_text())
    assert scores["samples"] == [] and scores["settings"]["template_digest"] is None
    assert scores["scores"][0]["n"] == 4


@pytest.mark.parametrize(
    ("architecture", "objective", "chat", "expected"),
    [
        ("encoder_decoder", "span_corruption", False, []),
        ("encoder_decoder", "span_corruption", True, ["encoder-decoders learn no conversations"]),
        (
            "encoder",
            "masked_lm",
            False,
            ["task blimp scores a causal LM or an encoder-decoder, but 'pretrain' makes a"],
        ),
    ],
)
def test_check_knows_who_can_be_asked(
    tmp_path: Path, architecture: str, objective: str, chat: bool, expected: list[str]
) -> None:
    made = chain()
    made["model"]["architecture"] = architecture
    made["stages"] = {name: made["stages"][name] for name in ("tokenizer", "pretrain", "evaluate")}
    made["stages"]["tokenizer"] |= {"mask_token": True, "num_sentinels": 20}
    made["stages"]["pretrain"]["objective"] = objective
    made["stages"]["evaluate"] = {"models": "pretrain", "tasks": ["blimp"]} | (
        {"apply_chat_template": True} if chat else {}
    )
    found = [problem.message for problem in find_problems(write(tmp_path, made))]
    assert len(found) == len(expected) and all(text in one for text, one in zip(expected, found, strict=True))
