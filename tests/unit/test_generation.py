"""Drawing completions: keyed noise, the right distribution, padding and batches that do not matter."""

import numpy as np
import torch
from tiny_ppo import PAD, STOP, VOCAB, decoder, prompts

from pipelines.training.generation import complete, left_padded, noise, positions, sample, unpadded


def draw(model, rows, numbers, *, stop_ids=(STOP,), temperature=1.0, length=None):
    ids, is_token = left_padded(rows, PAD, length)
    tokens, is_new = sample(model, ids, is_token, numbers, stop_ids=stop_ids, pad_id=PAD, temperature=temperature)
    return unpadded(tokens, is_new)


def test_prompts_are_padded_on_the_left_and_counted_from_their_first_token() -> None:
    ids, is_token = left_padded([[5, 6, 7], [8]], PAD, 4)
    assert ids.tolist() == [[PAD, 5, 6, 7], [PAD, PAD, PAD, 8]]
    assert positions(is_token).tolist() == [[0, 0, 1, 2], [0, 0, 0, 0]]


def test_a_rows_numbers_depend_on_its_key_alone() -> None:
    many = noise(1, 4, range(8), 5)
    assert torch.equal(many[3:5], noise(1, 4, range(3, 5), 5))
    assert not torch.equal(many, noise(1, 5, range(8), 5)) and not torch.equal(many, noise(2, 4, range(8), 5))
    assert float(many.min()) >= 0 and float(many.max()) < 1


def test_greedy_completions_are_those_of_generate() -> None:
    model, rows = decoder(), prompts(6)
    ids, is_token = left_padded(rows, PAD)
    wanted = model.generate(
        ids, attention_mask=is_token.long(), max_new_tokens=10, do_sample=False, eos_token_id=[STOP], pad_token_id=PAD
    )[:, ids.shape[1] :]
    got = draw(model, rows, noise(0, 0, range(6), 10), temperature=0)
    assert got == [row[: len(mine)] for row, mine in zip(wanted.tolist(), got, strict=True)]


def test_completions_do_not_depend_on_padding_and_batch() -> None:
    """Also with learned positions, which padding must not shift, and with windows shorter than the text."""
    variants = [
        {},
        {"position_embedding": "learned"},
        {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4},
    ]
    for changes in variants:
        model, rows, numbers = decoder(**changes), prompts(7), noise(3, 0, range(7), 12)
        together = draw(model, rows, numbers)
        alone = [draw(model, [row], numbers[n : n + 1])[0] for n, row in enumerate(rows)]
        assert together == alone == draw(model, rows, numbers, length=20)


def test_a_completion_ends_with_its_first_stop_token() -> None:
    model, rows = decoder(), prompts(12)
    free = draw(model, rows, noise(0, 0, range(12), 16), stop_ids=(VOCAB,))
    stops = tuple({row[4] for row in free[:6]})
    cut = draw(model, rows, noise(0, 0, range(12), 16), stop_ids=stops)
    for whole, row in zip(free, cut, strict=True):
        ends = [place for place, token in enumerate(whole) if token in stops]
        assert row == (whole[: ends[0] + 1] if ends else whole)


def test_tokens_are_drawn_as_often_as_the_model_says() -> None:
    """At temperature 2, over 20,000 draws of one row: chi-squared over the vocabulary, nothing cut off."""
    model, count = decoder(initializer_range=0.3), 20_000
    ids, is_token = left_padded([[5, 9, 11]] * count, PAD)
    with torch.inference_mode():
        wanted = (model(ids[:1]).logits[0, -1] / 2).softmax(-1).double()
    numbers = torch.from_numpy(np.random.default_rng(0).random((count, 1)))
    tokens, _ = sample(model, ids, is_token, numbers, stop_ids=(STOP,), pad_id=PAD, temperature=2.0)
    found = torch.bincount(tokens[:, 0], minlength=VOCAB).double()
    chi = float(((found - count * wanted) ** 2 / (count * wanted)).sum())
    assert chi < VOCAB + 5 * (2 * VOCAB) ** 0.5, chi


def test_the_model_keeps_its_mode_and_draws_without_dropout() -> None:
    model, rows = decoder(dropout=0.5), prompts(3)
    calm = draw(model.eval(), rows, noise(0, 0, range(3), 6))
    assert draw(model.train(), rows, noise(0, 0, range(3), 6)) == calm
    assert model.training


def test_complete_gives_each_place_the_same_completion_whatever_follows() -> None:
    model, rows = decoder(), prompts(40)
    given = {"max_new_tokens": 6, "stop_ids": (STOP,), "pad_id": PAD, "temperature": 1.0, "seed": 5}
    assert complete(model, rows, **given)[:33] == complete(model, rows[:33], **given)
    assert complete(model, rows, **given) != complete(model, rows, **given | {"seed": 6})
