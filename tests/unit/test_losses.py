"""Language modelling's arithmetic against loops by hand."""

import math

import pytest
import torch

from pipelines.training.losses import causal_lm_loss, shifted, token_losses


def test_each_place_predicts_the_next_token() -> None:
    assert shifted(torch.tensor([[5, 6, 7], [1, -100, 2]])).tolist() == [[6, 7, -100], [-100, 2, -100]]


def test_the_loss_is_the_mean_over_trained_tokens_by_hand() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 11)
    labels = torch.randint(0, 11, (3, 5))
    labels[:, 0] = -100
    labels[1, 2:] = -100
    total, count = 0.0, 0
    for row in range(3):
        for place in range(4):
            target = int(labels[row, place + 1])
            if target != -100:
                scores = logits[row, place].double()
                total -= float(scores[target] - torch.logsumexp(scores, 0))
                count += 1
    assert float(causal_lm_loss(logits, labels)) == pytest.approx(total / count, abs=1e-6)
    assert float(token_losses(logits, shifted(labels)).sum()) == pytest.approx(total, abs=1e-5)


def test_micro_batches_add_up_to_the_whole_batch() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 9, 7), torch.randint(0, 7, (6, 9))
    labels[2, 4:], labels[5, :] = -100, -100
    whole = causal_lm_loss(logits, labels)
    count = (shifted(labels) != -100).sum()
    parts = [causal_lm_loss(logits[i : i + 2], labels[i : i + 2], count) for i in (0, 2, 4)]
    assert float(sum(parts)) == pytest.approx(float(whole), abs=1e-6)


def test_a_batch_without_targets_is_zero_and_not_nan() -> None:
    loss = causal_lm_loss(torch.randn(2, 4, 5, requires_grad=True), torch.full((2, 4), -100))
    assert float(loss) == 0.0 and not math.isnan(float(loss))
