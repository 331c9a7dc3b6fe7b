"""Rows of ids into batches: positions, labels, padding, and every row accounted for."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from training_jobs import PAD, random_tokens, tokens_folder

from pipelines.data.collate import (
    ChatCollator,
    ChatRows,
    PackedCollator,
    PackedRows,
    PairCollator,
    PairRows,
    RewardCollator,
)
from pipelines.data.packing import pack_split, pack_whole
from pipelines.data.tokens import TokenTable
from pipelines.errors import DataError


def table(tmp_path: Path, kind: str, rows: list[dict]) -> TokenTable:
    return TokenTable.open(tokens_folder(tmp_path / kind, kind, rows), "train")


def chat(prompt: int, answer: int) -> dict:
    ids = list(range(4, 4 + prompt + answer))
    return {"input_ids": ids, "assistant_mask": [0] * prompt + [1] * answer, "num_bytes": 1}


def pair(prompt: int, chosen: list[int], rejected: list[int]) -> dict:
    return {"prompt_ids": list(range(10, 10 + prompt)), "chosen_ids": chosen, "rejected_ids": rejected}


def test_packed_rows_restart_positions_and_train_on_no_first_token() -> None:
    rows = [[np.array([0, 5, 6, 1]), np.array([0, 7, 1])], [np.array([0, 8])]]
    batch = PackedCollator(PAD)(rows)
    assert set(batch) == {"input_ids", "labels", "position_ids"}
    assert batch["input_ids"].tolist() == [[0, 5, 6, 1, 0, 7, 1, PAD], [0, 8] + [PAD] * 6]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 0], [0, 1] + [0] * 6]
    assert batch["labels"].tolist() == [[-100, 5, 6, 1, -100, 7, 1, -100], [-100, 8] + [-100] * 6]


@pytest.mark.parametrize("pack", [pack_whole, pack_split])
def test_packing_loses_and_repeats_no_token(tmp_path: Path, pack) -> None:
    tables = [
        TokenTable.open(random_tokens(tmp_path / str(number), "text", rows=rows, seed=number), "train")
        for number, rows in enumerate((20, 30))
    ]
    rows = PackedRows([(one, pack(one.lengths("input_ids"), 16)) for one in tables])
    pieces = [piece.tolist() for row in range(len(rows)) for piece in rows[row]]
    wanted = [one.ids("input_ids", row).tolist() for one in tables for row in range(len(one))]
    assert sorted(chain(*pieces)) == sorted(chain(*wanted))
    assert rows.lengths.tolist() == [sum(map(len, rows[row])) for row in range(len(rows))]
    assert rows.lengths.max() <= 16 and sum(rows.sizes) == len(rows)


def test_a_conversation_is_trained_on_its_assistant_tokens(tmp_path: Path) -> None:
    made = table(tmp_path, "chat", [chat(3, 4)])
    batch = ChatCollator(PAD)([ChatRows([made], max_length=32, overlong="drop")[0]])
    assert batch["labels"].tolist() == [[-100] * 3 + [7, 8, 9, 10] + [-100]]
    assert batch["attention_mask"].tolist() == [[1] * 7 + [0]]
    everything = ChatRows([made], max_length=32, overlong="drop", assistant_only=False)
    assert ChatCollator(PAD)([everything[0]])["labels"].tolist() == [[-100, 5, 6, 7, 8, 9, 10, -100]]


@pytest.mark.parametrize(
    ("overlong", "used", "overlong_rows", "untrained", "truncated"), [("drop", 1, 4, 0, 0), ("truncate", 3, 0, 2, 2)]
)
def test_prompts_at_the_edge_of_max_length_are_counted(
    tmp_path: Path, overlong: str, used: int, overlong_rows: int, untrained: int, truncated: int
) -> None:
    """Prompts of 20, 30, 31, 32 and 40 tokens with answers of 4, at max_length 32."""
    rows = ChatRows(
        [table(tmp_path, "chat", [chat(prompt, 4) for prompt in (20, 30, 31, 32, 40)])],
        max_length=32,
        overlong=overlong,
    )
    count = rows.counts[0]
    assert (count.rows_in, count.rows_used, count.dropped_overlong) == (5, used, overlong_rows)
    assert (count.dropped_untrained, count.truncated) == (untrained, truncated)
    assert count.rows_in == count.rows_used + count.dropped
    for row in range(len(rows)):
        labels = ChatCollator(PAD)([rows[row]])["labels"]
        assert (labels != -100).any() and labels.shape[1] <= 32
    assert rows.lengths.tolist() == [len(rows[row]["input_ids"]) for row in range(len(rows))]


@pytest.mark.parametrize(("overlong", "used", "dropped"), [("drop", 1, 3), ("truncate", 2, 1)])
def test_a_pair_is_dropped_when_either_side_or_the_prompt_is_too_long(
    tmp_path: Path, overlong: str, used: int, dropped: int
) -> None:
    made = [
        pair(20, [5, 6, 3], [7, 3]),
        pair(29, [5, 3], [7, 8, 9, 10, 3]),  # one side is too long
        pair(31, [5, 6, 3], [5, 7, 3]),  # within 32 tokens both sides are alike
        pair(32, [5, 3], [6, 3]),  # no room for an answer
    ]
    rows = PairRows([table(tmp_path, "preference", made)], max_length=32, overlong=overlong)
    count = rows.counts[0]
    assert (count.rows_used, count.dropped_overlong) == (used, dropped)
    assert count.dropped_untrained == (1 if overlong == "truncate" else 0)
    assert rows.longest.max() <= 32
    for row in range(len(rows)):
        sides = rows[row]
        lengths = [len(sides["prompt_ids"]) + len(sides[side]) for side in ("chosen_ids", "rejected_ids")]
        assert (max(lengths), sum(lengths)) == (rows.longest[row], rows.lengths[row])


def test_pairs_are_chosen_rows_then_rejected_rows() -> None:
    rows = [pair(2, [5, 3], [6]), pair(1, [7], [8, 9, 3])]
    batch = PairCollator(PAD, with_completion_mask=True)(rows)
    assert batch["input_ids"][:, :5].tolist() == [
        [10, 11, 5, 3, PAD],
        [10, 7, PAD, PAD, PAD],
        [10, 11, 6, PAD, PAD],
        [10, 8, 9, 3, PAD],
    ]
    assert batch["completion_mask"].sum(1).tolist() == [2, 1, 1, 3]
    assert batch["attention_mask"].sum(1).tolist() == [4, 2, 3, 4]
    whole = [{"chosen_ids": [10, 11, 5], "rejected_ids": [10, 11, 6, 3]}]
    assert RewardCollator(PAD)(whole)["input_ids"][:, :4].tolist() == [[10, 11, 5, PAD], [10, 11, 6, 3]]


def test_too_many_dropped_rows_stop_the_stage_with_numbers(tmp_path: Path) -> None:
    count = ChatRows([table(tmp_path, "chat", [chat(20, 4), chat(40, 4)])], max_length=32, overlong="drop").counts[0]
    assert count.check("chats", max_dropped=0.5, max_length=32) is count
    with pytest.raises(DataError, match=r"chats: 1 of 2 rows dropped \(1 longer than max_length 32, 0 without"):
        count.check("chats", max_dropped=0.49, max_length=32)


def test_no_row_left_is_an_error_whatever_is_allowed(tmp_path: Path) -> None:
    rows = ChatRows([table(tmp_path, "chat", [chat(40, 4)])], max_length=32, overlong="drop")
    with pytest.raises(DataError, match="1 of 1 rows"):
        rows.counts[0].check("chats", max_dropped=1.0, max_length=32)


def test_padding_and_batch_size_change_no_score(tmp_path: Path) -> None:
    """Seven rows of 3 to 60 tokens, scored at batch 1, 2, 4 and 7."""
    from custom_models import DecoderConfig, DecoderForCausalLM
    from pipelines.training.losses import shifted, token_losses

    torch.manual_seed(0)
    model = DecoderForCausalLM(
        DecoderConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    ).eval()
    made = [chat(2, length - 2) for length in (3, 9, 17, 24, 31, 45, 60)]
    rows = ChatRows([table(tmp_path, "chat", made)], max_length=64, overlong="drop")

    def scores(size: int) -> torch.Tensor:
        parts = []
        for start in range(0, 7, size):
            batch = ChatCollator(PAD)([rows[row] for row in range(start, min(7, start + size))])
            targets = shifted(batch.pop("labels"))
            with torch.no_grad():
                parts.append(token_losses(model(**batch).logits, targets).sum(1))
        return torch.cat(parts)

    alone = scores(1)
    assert all(torch.allclose(scores(size), alone, atol=1e-5) for size in (2, 4, 7))
