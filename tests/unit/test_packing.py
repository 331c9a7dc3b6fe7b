"""Rows of packed documents, by hand and against a plain best fit."""

import numpy as np
import pytest

from pipelines.data.packing import Packing, pack_split, pack_whole


def plain_best_fit(lengths: list[int], max_length: int) -> list[int]:
    """Fill of each row by the textbook: longest first, each into the fullest row that takes it."""
    rows: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, fill in enumerate(rows) if fill + length <= max_length]
        if fitting:
            rows[max(fitting, key=lambda i: rows[i])] += length
        else:
            rows.append(length)
    return sorted(rows)


def fills(packing: Packing) -> list[int]:
    return sorted(sum(stop - start for _, start, stop in row) for row in packing)


def test_whole_documents_are_kept_whole() -> None:
    packing = pack_whole(np.array([3, 10, 7, 25]), 10)
    assert list(packing) == [[(1, 0, 10)], [(3, 0, 10)], [(3, 10, 20)], [(2, 0, 7), (0, 0, 3)], [(3, 20, 25)]]
    assert (packing.tokens, len(packing), packing.padding_share) == (45, 5, pytest.approx(0.1))


def test_a_stream_fills_every_row() -> None:
    packing = pack_split(np.array([3, 0, 10, 12]), 10)
    assert list(packing) == [[(0, 0, 3), (2, 0, 7)], [(2, 7, 10), (3, 0, 7)], [(3, 7, 12)]]


@pytest.mark.parametrize("pack", [pack_whole, pack_split])
def test_nothing_to_pack(pack) -> None:  # type: ignore[no-untyped-def]
    for lengths in ([], [0, 0]):
        packing = pack(np.array(lengths, np.int64), 8)
        assert (len(packing), list(packing), packing.padding_share) == (0, [], 0.0)
        with pytest.raises(IndexError):
            packing[0]


@pytest.mark.parametrize("seed", range(20))
def test_whole_documents_are_placed_as_by_the_textbook(seed: int) -> None:
    draw = np.random.default_rng(seed)
    max_length = int(draw.integers(1, 60))
    lengths = draw.integers(1, max_length + 1, draw.integers(1, 200))
    assert fills(pack_whole(lengths, max_length)) == plain_best_fit(lengths.tolist(), max_length)


@pytest.mark.parametrize("pack", [pack_whole, pack_split])
def test_packing_is_the_same_every_time_and_reads_from_the_end_too(pack) -> None:  # type: ignore[no-untyped-def]
    lengths = np.random.default_rng(0).integers(0, 300, 1000)
    one, two = pack(lengths, 128), pack(lengths.tolist(), 128)
    assert list(one) == list(two)
    assert one[-1] == one[len(one) - 1]


def test_lengths_that_make_no_sense_are_refused() -> None:
    for lengths, max_length in (([-1], 4), ([1], 0), ([[1]], 4)):
        with pytest.raises(ValueError, match="lengths must be"):
            pack_whole(np.array(lengths), max_length)


def test_many_documents_leave_almost_no_padding() -> None:
    lengths = np.minimum(np.random.default_rng(0).lognormal(5, 1, 200_000).astype(int) + 1, 5_000)
    packing = pack_whole(lengths, 2048)
    assert packing.tokens == lengths.sum()
    assert packing.padding_share < 0.01
