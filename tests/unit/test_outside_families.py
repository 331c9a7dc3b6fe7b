"""Stock BERT and T5 folders: their weights and tokenizers, the stages that go on from them, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_recipe import chain, fingerprints, planned, write
from tiny_task import write_task
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from custom_models import EncoderDecoderForConditionalGeneration, EncoderForMaskedLM
from custom_models.stock_maps import MAPS
from pipelines.cli import main
from pipelines.data.chat import ChatRenderer
from pipelines.data.noise import Vocabulary
from pipelines.errors import ArtifactError, DataError
from pipelines.plan.derived import ModelJob
from pipelines.plan.jobs import Job
from pipelines.recipe.base import ArtifactKind, OutsideModel
from pipelines.recipe.load import find_problems
from pipelines.recipe.outside import OURS, STOCK
from pipelines.recipe.paths import model_files
from pipelines.recipe.stages import SftStage
from pipelines.run import worker
from pipelines.stages import model
from pipelines.stages.base import LaunchSettings, StageContext
from pipelines.stages.tokens import check_row, encode
from pipelines.training.inputs import tokens_of

torch.set_num_threads(1)
LETTERS = [chr(number) for number in range(33, 127)]
IDS = torch.arange(10, 34).reshape(2, 12)
MASK = (torch.arange(12) < torch.tensor([[12], [7]])).long()
TRAIN = {"duration": "2 steps", "global_batch_size": 4, "learning_rate": 1e-3, "max_length": 48}


def bert(folder: Path, **changes: Any) -> Path:
    """Uncased WordPiece over letters and a few words, as BERT's is."""
    words = ["the", "mill", "##er", "went", "well", *(letter for letter in LETTERS if not letter.isupper())]
    words += [f"##{letter}" for letter in LETTERS if not letter.isupper()]
    vocab = {name: n for n, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    pieces = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece()
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = PreTrainedTokenizerFast(tokenizer_object=pieces, **special, pad_token="[PAD]", mask_token="[MASK]")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(vocab), **(sizes | {"max_position_embeddings": 64, "bos_token_id": 2} | changes))
    made = BertForMaskedLM(config).eval()
    made.save_pretrained(folder)
    settings = folder / "config.json"
    old = {"position_embedding_type": "absolute", "gradient_checkpointing": False}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | old))
    weights = load_file(folder / "model.safetensors")
    weights["bert.pooler.dense.weight"] = torch.zeros(16, 16)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def t5(folder: Path, **changes: Any) -> Path:
    """Unigram over letters and a few words with T5's own tokens."""
    words = ["▁the", "▁mill", "er", "▁went", "▁", *LETTERS]
    extra = [f"<extra_id_{number}>" for number in reversed(range(20))]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -2.0 - n / 9) for n, word in enumerate(words))]
    pieces = Tokenizer(models.Unigram([*vocab, *((name, 0.0) for name in extra)], unk_id=2))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.decoder = decoders.Metaspace()
    pieces.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=pieces, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", extra_special_tokens=extra
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 2}
    config = T5Config(
        vocab_size=len(vocab) + 24, **(sizes | {"n_positions": 512, "decoder_start_token_id": 0} | changes)
    )
    T5ForConditionalGeneration(config).eval().save_pretrained(folder)
    return folder


def brought(folder: Path, workdir: Path, **uses: tuple[ArtifactKind, ...]) -> tuple[Path, dict[str, Any]]:
    """(output, metrics) of the job that brings a model in."""
    config = ModelJob(model=OutsideModel(path=str(folder)), uses=uses)
    job = Job(
        name="model-x",
        stage="model-x",
        config=config,
        seed=None,
        files={str(path): "0" for path in model_files(folder)},
    )
    ctx = StageContext(job=job, inputs={}, workdir=workdir)
    ctx.output.mkdir(parents=True)
    return ctx.output, dict(model.run(ctx))


# --- weights and tokenizers -------------------------------------------------------------------------------------------


def test_a_bert_comes_with_its_weights_and_its_mask(tmp_path: Path) -> None:
    output, metrics = brought(bert(tmp_path / "bert"), tmp_path / "work")
    theirs = BertForMaskedLM.from_pretrained(tmp_path / "bert").eval()
    ours = EncoderForMaskedLM.from_pretrained(output).eval()
    expected = theirs(IDS, attention_mask=MASK).logits[MASK.bool()]
    torch.testing.assert_close(ours(IDS, attention_mask=MASK).logits[MASK.bool()], expected, atol=1e-5, rtol=0)
    assert ours.config.pooler, "a classifier made of it is a BERT's"
    assert (metrics["class"], metrics["mask_id"], metrics["changes_text"]) == ("BertForMaskedLM", 4, 1)
    tokens = tokens_of(output)
    assert (tokens.bos_id, tokens.eos_id, tokens.pad_id, tokens.mask_id, tokens.first_id) == (2, 3, 0, 4, 2)
    assert tokens.tokenizer.mask_token == "[MASK]"
    text = "The miller  went"
    expected_ids = AutoTokenizer.from_pretrained(tmp_path / "bert")(text)["input_ids"]
    assert ChatRenderer.load(output).document(text) == expected_ids == tokens.tokenizer(text)["input_ids"]


def test_a_t5_comes_with_its_weights_and_its_sentinels(tmp_path: Path) -> None:
    output, metrics = brought(t5(tmp_path / "t5"), tmp_path / "work")
    theirs = T5ForConditionalGeneration.from_pretrained(tmp_path / "t5").eval()
    ours = EncoderDecoderForConditionalGeneration.from_pretrained(output).eval()
    inputs = {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": IDS[:, :5]}
    torch.testing.assert_close(ours(**inputs).logits, theirs(**inputs).logits, atol=1e-5, rtol=0)
    tokens = tokens_of(output)
    assert (tokens.eos_id, tokens.pad_id, tokens.first_id, metrics["sentinels"]) == (1, 0, None, 20)
    names = AutoTokenizer.from_pretrained(tmp_path / "t5").convert_ids_to_tokens(list(tokens.sentinel_ids))
    assert names == [f"<extra_id_{number}>" for number in range(20)]
    assert ours.generation_config.decoder_start_token_id == ours.config.decoder_start_token_id == 0
    written = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(ours.generate(input_ids=IDS, **written), theirs.generate(input_ids=IDS, **written))


def test_a_t5_of_version_1_1_has_a_head_of_its_own(tmp_path: Path) -> None:
    folder = t5(tmp_path / "t5", feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = torch.randn(weights["shared.weight"].shape)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    output, _ = brought(folder, tmp_path / "work")
    ours = EncoderDecoderForConditionalGeneration.from_pretrained(output).eval()
    assert torch.equal(ours.lm_head.weight, weights["lm_head.weight"])
    assert torch.equal(ours.model.decoder.embed_tokens.weight, weights["shared.weight"])
    theirs = T5ForConditionalGeneration.from_pretrained(folder).eval()
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS[:, :5]}
    torch.testing.assert_close(ours(**inputs).logits, theirs(**inputs).logits, atol=1e-4, rtol=1e-4)


def test_a_t5_that_names_no_start_begins_with_padding(tmp_path: Path) -> None:
    output, _ = brought(t5(tmp_path / "t5", decoder_start_token_id=None), tmp_path / "work")
    assert json.loads((output / "config.json").read_text())["decoder_start_token_id"] == 0


def test_whole_words_of_a_wordpiece_are_masked_as_one(tmp_path: Path) -> None:
    tokens = tokens_of(brought(bert(tmp_path / "bert"), tmp_path / "work")[0])
    known = Vocabulary.of(tokens.tokenizer, tokens.vocab_size, [])
    ids = np.array(tokens.tokenizer("the miller went well.")["input_ids"])
    pieces = ["[CLS]", "the", "mill", "##er", "went", "well", ".", "[SEP]"]
    assert tokens.tokenizer.convert_ids_to_tokens(ids.tolist()) == pieces
    assert known.word_numbers(ids, np.zeros(len(ids))).tolist() == [0, 1, 2, 2, 3, 4, 5, 6]


def test_text_that_a_tokenizer_changes_is_no_fault_of_the_rows(tmp_path: Path) -> None:
    output, _ = brought(bert(tmp_path / "bert"), tmp_path / "work")
    renderer = ChatRenderer.load(output)
    row = {"text": "The  MILLER"}
    check_row(renderer, "text", row, {name: one[0] for name, one in encode(renderer, "text", [row]).items()})
    renderer.changes_text = False
    with pytest.raises(DataError, match="decodes to"):
        check_row(renderer, "text", row, {name: one[0] for name, one in encode(renderer, "text", [row]).items()})


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "changes", "reason"),
    [
        (bert, {"hidden_act": "relu"}, "hidden_act: relu is nothing that our blocks can be"),
        (bert, {"is_decoder": True}, "is_decoder: True is nothing that our blocks can be"),
        (t5, {"feed_forward_proj": "gated-silu"}, "feed_forward_proj: gated-silu is nothing that our blocks can be"),
        (t5, {"relative_attention_flavour": "mild"}, "relative_attention_flavour: mild is nothing that our blocks"),
    ],
)
def test_a_field_that_no_block_knows_is_named(tmp_path: Path, make: Any, changes: dict, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        brought(make(tmp_path / "x", **changes), tmp_path / "work")


def test_another_kind_of_positions_is_named(tmp_path: Path) -> None:
    settings = bert(tmp_path / "x") / "config.json"
    settings.write_text(settings.read_text().replace('"absolute"', '"relative_key"'))
    with pytest.raises(DataError, match="position_embedding_type: relative_key is nothing"):
        brought(tmp_path / "x", tmp_path / "work")


def test_a_model_that_does_not_fit_is_refused_when_it_comes(tmp_path: Path) -> None:
    """As from the Hub, where `check` could not look."""
    folder = bert(tmp_path / "bert")
    brought(folder, tmp_path / "fits", finetune=(ArtifactKind.CAUSAL_LM, ArtifactKind.MASKED_LM))
    with pytest.raises(DataError, match="is BertForMaskedLM, a masked LM, and stage 'sft' starts from a causal LM"):
        brought(folder, tmp_path / "work", sft=(ArtifactKind.CAUSAL_LM,))


def test_a_model_that_fitted_another_recipe_is_refused_by_the_worker(tmp_path: Path) -> None:
    output, _ = brought(bert(tmp_path / "bert"), tmp_path / "work")
    two = stages(tmp_path, mine={"model": {"path": "bert"}, "task": "classification", "data": "reviews", **FINETUNE})
    fitting = planned(tmp_path, two).by_name["mine"]
    worker.require_fitting(worker.Task(fitting, {"model": output}, LaunchSettings()))
    sft = SftStage.model_validate_json(json.dumps({"kind": "sft", "model": "model-bert", "data": "chats", **TRAIN}))
    wrong = worker.Task(fitting.model_copy(update={"config": sft}), {"model": output}, LaunchSettings())
    with pytest.raises(ArtifactError, match="'model-bert' is a masked LM, and stage 'mine' starts from a causal LM"):
        worker.require_fitting(wrong)


def stages(tmp_path: Path, **stages: Any) -> dict[str, Any]:
    made = chain()
    made["data"] = {name: made["data"][name] for name in ("tales", "chats", "pairs")}
    made["data"] |= {"reviews": {"builtin": "microworld/sentiment", "limit": 24}}
    made["data"] |= {"sentences": {"builtin": "microworld/translation", "limit": 24}}
    del made["model"]
    return made | {"stages": stages}


FINETUNE = {"kind": "finetune", "overlong": "truncate", "max_dropped": 1.0, **TRAIN}


@pytest.mark.parametrize(
    ("source", "stage", "message"),
    [
        ("bert", {"kind": "sft", "data": "chats"}, "needs a causal LM, but 'bert' is a masked LM"),
        ("t5", {"kind": "dpo", "data": "pairs"}, "needs a causal LM, but 't5' is an encoder-decoder"),
        (
            "bert",
            {"kind": "finetune", "task": "seq2seq", "data": "sentences"},
            "seq2seq is done by an encoder_decoder or a decoder, and this is an encoder",
        ),
        (
            "t5",
            {"kind": "finetune", "task": "classification", "data": "reviews"},
            "classification is done by an encoder or a decoder, and this is an encoder_decoder",
        ),
        (
            "t5",
            {"kind": "pretrain", "data": "tales", "objective": "masked_lm"},
            "masked_lm is no objective for an encoder_decoder; choose span_corruption",
        ),
    ],
)
def test_check_sees_what_a_folder_is(tmp_path: Path, source: str, stage: dict[str, Any], message: str) -> None:
    (bert if source == "bert" else t5)(tmp_path / source)
    made = stages(tmp_path, mine={"model": {"path": source}, **TRAIN, **stage})
    problems = find_problems(write(tmp_path, made))
    assert [problem.message for problem in problems] == [message]
    assert problems[0].path.startswith("stages.mine.")


def test_what_is_scored_is_seen_too(tmp_path: Path) -> None:
    bert(tmp_path / "bert")
    tasks = [{"name": "bits_per_byte", "data": "tales"}]
    made = stages(tmp_path, evaluate={"models": [{"path": "bert"}], "tasks": tasks})
    (problem,) = find_problems(write(tmp_path, made))
    assert "task bits_per_byte scores a causal LM, but 'bert' is a masked LM" in problem.message


def test_a_class_that_stages_cannot_start_from_is_named(tmp_path: Path) -> None:
    bert(tmp_path / "bert")
    BertForSequenceClassification(
        BertConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
    ).save_pretrained(tmp_path / "bert")
    made = stages(tmp_path, mine={"model": {"path": "bert"}, "task": "classification", "data": "reviews", **FINETUNE})
    (problem,) = find_problems(write(tmp_path, made))
    assert problem.message.startswith(
        "'bert' is BertForSequenceClassification, which is nothing that our blocks can be"
    )


def test_who_uses_a_model_decides_nothing_of_it(tmp_path: Path) -> None:
    bert(tmp_path / "bert")
    one = {"model": {"path": "bert"}, "task": "classification", "data": "reviews", **FINETUNE}
    other = {"kind": "pretrain", "objective": "masked_lm", "model": {"path": "bert"}, "data": "tales", **TRAIN}
    alone = planned(tmp_path, stages(tmp_path, mine=one))
    both = planned(tmp_path, stages(tmp_path, mine=one, more=other))
    assert fingerprints(alone)["model-bert"] == fingerprints(both)["model-bert"]
    uses = both.by_name["model-bert"].config.uses
    assert uses == {"mine": ("causal_lm", "masked_lm"), "more": ("masked_lm",)}


def test_the_classes_that_check_knows_are_those_of_the_maps() -> None:
    assert {stock.name for stock in MAPS} == set(STOCK)
    assert {stock.our_model.__name__ for stock in MAPS} == set(OURS)
    assert all(STOCK[stock.name] == OURS[stock.our_model.__name__] for stock in MAPS)


# --- stages go on from them -------------------------------------------------------------------------------------------


def test_stages_go_on_from_a_bert_and_it_leaves_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bert(tmp_path / "bert")
    made = stages(
        tmp_path,
        more={"kind": "pretrain", "objective": "masked_lm", "model": {"path": "bert"}, "data": "tales", **TRAIN},
        mine={"model": {"path": "bert"}, "task": "classification", "data": "reviews", **FINETUNE},
        evaluate={"models": "mine", "tasks": [{"name": "classification", "data": "reviews"}]},
        masks={
            "kind": "evaluate",
            "models": [{"path": "bert"}, "more"],
            "tasks": [{"name": name, "data": "tales", "limit": 2} for name in ("masked_accuracy", "pseudo_perplexity")],
        },
    )
    path = str(write(tmp_path, made))
    assert main(["run", path, "--store", "artifacts"]) == 0
    assert main(["export", path, "--stage", "mine", "--to", "out"]) == 0
    assert json.loads(Path("out/config.json").read_text())["architectures"] == ["BertForSequenceClassification"]
    assert main(["export", path, "--stage", "more", "--to", "out"]) == 0
    tokenizer, stock = AutoTokenizer.from_pretrained("out"), AutoTokenizer.from_pretrained("bert")
    assert tokenizer("The miller", "went")["input_ids"] == stock("The miller", "went")["input_ids"]


def test_stages_go_on_from_a_t5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    t5(tmp_path / "t5")
    span = {"kind": "pretrain", "objective": "span_corruption", "model": {"path": "t5"}, "data": "tales", **TRAIN}
    made = stages(
        tmp_path,
        more=span,
        mine={"model": "more", "task": "seq2seq", "data": "sentences", **FINETUNE},
        evaluate={
            "models": ["mine", {"path": "t5"}],
            "tasks": [{"name": "seq2seq", "data": "sentences", "limit": 4, "max_completion_length": 8}, "mine"],
        },
    )
    write_task(tmp_path)
    path = str(write(tmp_path, made))
    assert main(["run", path, "--store", "artifacts"]) == 0
    assert main(["export", path, "--stage", "mine", "--to", "out"]) == 0
    assert json.loads(Path("out/config.json").read_text())["architectures"] == ["T5ForConditionalGeneration"]
    scores = json.loads(Path("runs/tiny/report.json").read_text())["scores"]
    assert {score["stage"] for score in scores if score["task"] == "mine"} == {"mine", "model-t5"}


def changed(name: str, value: Any) -> Any:
    def spoil(folder: Path) -> None:
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(settings | {name: value}))

    return spoil


def cut(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (changed("vocab_size", 50), r"mismatched keys: .*word_embeddings.weight \(.*, 16\), and config.json makes it"),
        (changed("num_attention_heads", "two"), "config.json: .*'num_attention_heads' expected int, got str"),
        (cut, "its weights cannot be read .*; fetch them again"),
    ],
)
def test_weights_that_are_not_those_of_the_config_are_one_line(tmp_path: Path, spoil: Any, reason: str) -> None:
    spoil(bert(tmp_path / "bert"))
    with pytest.raises(DataError, match=reason) as caught:
        brought(tmp_path / "bert", tmp_path / "work")
    assert "\n" not in str(caught.value)
