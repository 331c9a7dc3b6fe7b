"""Pseudo-log-likelihoods of a masked language model against a plain loop, and what they may not depend on."""

import json
import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from pipelines.errors import DataError
from pipelines.evaluation.pseudo import MaskedScorer, encode, read_minimal_pairs

PIECES = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "the", "cat", "##s", "##ty", "play", "##ing", "##ed", ".", "a"]
TEXTS = ["the cats playing .", "a", "the catsty cat played playing the cat .", "playing cats", "[MASK] the ."]
PAD, MASK = 0, 3


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    special = {"mask_token": "[MASK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", **special)


@pytest.fixture(scope="module")
def model() -> BertForMaskedLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    made = BertForMaskedLM(BertConfig(vocab_size=len(PIECES), max_position_embeddings=32, pad_token_id=PAD, **sizes))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.5)
    return made.eval()


@pytest.fixture
def texts(tokenizer):
    return encode(tokenizer, TEXTS, max_length=32)


def scorer(model, tokens_per_forward: int = 4096) -> MaskedScorer:
    return MaskedScorer(model, MASK, PAD, tokens_per_forward)


def by_hand(model, ids: list[int], place: int, masked: list[int]) -> float:
    """One forward pass without any padding."""
    row = torch.tensor([ids])
    row[0, masked] = MASK
    with torch.no_grad():
        return model(input_ids=row).logits[0, place].log_softmax(-1)[ids[place]].item()


def test_a_text_is_its_tokens_between_special_ones_and_spells_none(texts, tokenizer):
    assert [PIECES[token] for token in texts[0].input_ids] == [
        "[CLS]",
        "the",
        "cat",
        "##s",
        "play",
        "##ing",
        ".",
        "[SEP]",
    ]
    assert (texts[0].scored, texts[0].words) == ([1, 2, 3, 4, 5, 6], [None, 0, 1, 1, 2, 2, 3, None])
    assert MASK not in texts[4].input_ids


def test_each_token_is_scored_with_only_itself_masked(model, texts):
    for text, values in zip(texts, scorer(model).token_log_likelihoods(texts), strict=True):
        assert values == pytest.approx(
            [by_hand(model, text.input_ids, place, [place]) for place in text.scored], abs=1e-5
        )
    sums = scorer(model).pseudo_log_likelihoods(texts)
    assert sums == pytest.approx([sum(row) for row in scorer(model).token_log_likelihoods(texts)])


def test_within_a_word_the_tokens_after_are_masked_too(model, texts):
    values = scorer(model).token_log_likelihoods(texts, correction="within_word_l2r")[2]
    ids = texts[2].input_ids
    assert [PIECES[token] for token in ids[1:8]] == ["the", "cat", "##s", "##ty", "cat", "play", "##ed"]
    masks = [[1], [2, 3, 4], [3, 4], [4], [5], [6, 7], [7]]
    expected = [by_hand(model, ids, masked[0], masked) for masked in masks]
    assert values[:7] == pytest.approx(expected, abs=1e-5)
    assert values[1] != pytest.approx(scorer(model).token_log_likelihoods(texts)[2][1], abs=1e-3)


@pytest.mark.parametrize("correction", ["none", "within_word_l2r"])
@pytest.mark.parametrize("tokens_per_forward", [1, 11, 64])
def test_scores_do_not_depend_on_batches_and_padding(model, texts, tokens_per_forward, correction):
    whole = scorer(model).token_log_likelihoods(texts, correction=correction)
    found = scorer(model, tokens_per_forward).token_log_likelihoods(texts, correction=correction)
    alone = [scorer(model).token_log_likelihoods([text], correction=correction)[0] for text in texts]
    for expected, one, other in zip(whole, found, alone, strict=True):
        assert one == pytest.approx(expected, abs=1e-5) and other == pytest.approx(expected, abs=1e-5)
    accuracy = scorer(model).masked_accuracy(texts, seed=3)
    assert scorer(model, tokens_per_forward).masked_accuracy(texts, seed=3) == accuracy


def test_a_forward_pass_holds_no_more_tokens_than_it_may(model, texts):
    shapes = []
    hook = model.register_forward_pre_hook(
        lambda _, args, named: shapes.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    scorer(model, 24).pseudo_log_likelihoods(texts)
    hook.remove()
    assert max(rows * width for rows, width in shapes) <= 24 and any(rows > 1 for rows, _ in shapes)
    assert sum(rows for rows, _ in shapes) == sum(len(text.scored) for text in texts)


def test_pseudo_perplexity_is_the_exponential_of_the_mean_loss_of_a_token(model, texts):
    values = [value for row in scorer(model).token_log_likelihoods(texts) for value in row]
    value, stderr = scorer(model).pseudo_perplexity(texts)
    assert value == pytest.approx(math.exp(-sum(values) / len(values))) and stderr > 0
    assert scorer(model).pseudo_perplexity(texts[:1])[1] is None


def test_of_a_minimal_pair_the_more_probable_text_wins_and_a_tie_is_a_miss(model, texts):
    sums = scorer(model).pseudo_log_likelihoods(texts)
    order = sorted(range(len(texts)), key=sums.__getitem__)
    low, high = texts[order[0]], texts[order[-1]]
    value, stderr = scorer(model).minimal_pair_accuracy([(high, low), (low, high), (high, high), (high, low)])
    assert (value, stderr) == (0.5, pytest.approx(math.sqrt(1 / 3 / 4)))


def test_masked_tokens_are_a_seeded_share_and_found_where_the_model_knows_them(model, texts, tokenizer):
    assert 0 <= scorer(model).masked_accuracy(texts, seed=0)[0] <= 1
    rows = encode(tokenizer, ["the cat the cat the cat the cat the cat"] * 12, max_length=32)
    asked = []
    hook = model.register_forward_pre_hook(lambda _, args, named: asked.append(named["input_ids"]), with_kwargs=True)
    for seed in (1, 1, 2):
        scorer(model).masked_accuracy(rows, seed=seed, share=0.4)
    hook.remove()
    masks = [(ids == MASK) for ids in asked]
    assert (masks[0].sum(1) == 4).all() and not masks[0][:, [0, -1]].any()
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
    assert len({tuple(row.tolist()) for row in masks[0]}) > 1
    knows = Always(model, token=PIECES.index("the"))
    assert scorer(knows).masked_accuracy(encode(tokenizer, ["the the the"], max_length=32), seed=0)[0] == 1
    assert scorer(knows).masked_accuracy(encode(tokenizer, ["cat cat cat"], max_length=32), seed=0)[0] == 0


class Always(torch.nn.Module):
    """A model that always says the same."""

    def __init__(self, model: BertForMaskedLM, token: int):
        super().__init__()
        self.inner, self.token, self.device = model, token, model.device
        self.eval()

    def forward(self, input_ids, attention_mask):
        found = self.inner(input_ids=input_ids, attention_mask=attention_mask)
        found.logits[..., self.token] = 100.0
        return found


def test_a_model_in_training_mode_is_refused(model, texts):
    model.train()
    try:
        with pytest.raises(ValueError, match="eval"):
            scorer(model).pseudo_log_likelihoods(texts)
    finally:
        model.eval()


def test_texts_without_tokens_and_too_long_ones_are_refused(tokenizer):
    with pytest.raises(DataError, match="text 1 has no tokens"):
        encode(tokenizer, ["cat", " "], max_length=32)
    with pytest.raises(DataError, match="text 0 has 6 tokens, and the model reads 5"):
        encode(tokenizer, ["cats cats"], max_length=5)


def test_minimal_pairs_are_read_and_their_faults_told_by_line(tmp_path):
    path, row = tmp_path / "pairs.jsonl", {"sentence_good": "A\u2028b.", "sentence_bad": "B a.", "field": "syntax"}
    path.write_text((json.dumps(row, ensure_ascii=False) + "\n\n") * 2, encoding="utf-8")
    assert read_minimal_pairs(path) == [("A\u2028b.", "B a.")] * 2
    for bad, message in (("{", "no JSON"), ("[1]", "no JSON"), (json.dumps(row | {"sentence_bad": " "}), "not empty")):
        path.write_text(json.dumps(row) + "\n" + bad + "\n")
        with pytest.raises(DataError, match=rf"pairs.jsonl:2: .*{message}"):
            read_minimal_pairs(path)
    for bad, message in ((b"\n", "has no pairs"), (b"\xff", "cannot be read")):
        path.write_bytes(bad)
        with pytest.raises(DataError, match=message):
            read_minimal_pairs(path)
