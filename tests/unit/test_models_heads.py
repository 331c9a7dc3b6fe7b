"""A reward model reads its score at the last token, on whichever side the padding is."""

import pytest
import torch

from custom_models import DecoderConfig, DecoderForCausalLM, DecoderForSequenceClassification

torch.set_num_threads(1)
SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2}
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


def reward_model(**changes) -> DecoderForSequenceClassification:
    torch.manual_seed(0)
    return DecoderForSequenceClassification(DecoderConfig(**{**SMALL, "num_labels": 1, **changes})).eval()


def rows_and_mask(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(1, 97, (3, 8), generator=torch.Generator().manual_seed(1))
    num_padded = torch.tensor([[0], [2], [5]])
    index = torch.arange(8)
    mask = (index >= num_padded) if side == "left" else (index < 8 - num_padded)
    return ids.masked_fill(~mask, 0), mask.long()


@pytest.mark.parametrize("told_by", ["attention_mask", "pad_token_id"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_score_is_the_one_the_row_has_alone(side, told_by):
    model = reward_model(pad_token_id=0)
    ids, mask = rows_and_mask(side)
    # Without a mask, padding on the left is seen by the tokens: only the place of the score can be checked.
    scores = model(ids, attention_mask=mask if told_by == "attention_mask" or side == "left" else None).logits
    assert scores.shape == (3, 1)
    for row in range(3):
        alone = model(ids[row][mask[row].bool()][None]).logits
        torch.testing.assert_close(scores[row : row + 1], alone, **TOLERANCE)
    if told_by == "pad_token_id":
        states = model.model(ids).last_hidden_state
        last = torch.tensor([row.nonzero().max() for row in mask])
        torch.testing.assert_close(model(ids).logits, model.score(states[torch.arange(3), last]), **TOLERANCE)


def test_an_end_token_that_is_also_the_padding_token_is_scored_where_the_mask_says():
    model = reward_model(pad_token_id=5, eos_token_id=5)
    ids = torch.tensor([[7, 8, 5, 5, 5], [7, 8, 9, 11, 5]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    scores = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(scores[:1], model(ids[:1, :3], attention_mask=mask[:1, :3]).logits, **TOLERANCE)


def test_several_rows_without_any_sign_of_padding_are_refused():
    ids, _ = rows_and_mask("right")
    assert reward_model()(ids[:1]).logits.shape == (1, 1)
    with pytest.raises(ValueError, match="give attention_mask, or set pad_token_id"):
        reward_model()(ids)


def test_labels_give_the_loss_of_their_kind():
    ids, mask = rows_and_mask("right")
    model, targets = reward_model(), torch.tensor([0.5, -1.0, 2.0])
    output = model(ids, attention_mask=mask, labels=targets)
    torch.testing.assert_close(output.loss, ((output.logits[:, 0] - targets) ** 2).mean())
    model, labels = reward_model(num_labels=3), torch.tensor([0, 2, 1])
    output = model(ids, attention_mask=mask, labels=labels)
    torch.testing.assert_close(output.loss, -output.logits.log_softmax(-1)[torch.arange(3), labels].mean())


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_language_model_becomes_a_reward_model_with_only_the_score_new(tmp_path, is_tied):
    language_model = DecoderForCausalLM(DecoderConfig(**SMALL, tie_word_embeddings=is_tied))
    language_model.save_pretrained(tmp_path)
    model, report = DecoderForSequenceClassification.from_pretrained(tmp_path, num_labels=1, output_loading_info=True)
    assert report["missing_keys"] == {"score.weight"}
    assert not report["unexpected_keys"]
    assert model.score.weight.shape == (1, 32)
    for name, weight in model.model.state_dict().items():
        assert torch.equal(weight, language_model.model.state_dict()[name])
