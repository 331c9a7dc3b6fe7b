"""Which row comes when."""

import numpy as np
import pytest

from pipelines.data.schedule import GroupedByLength, InOrder, Mixture, Schedule, key, mixed


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 64, 100, 1000])
def test_every_pass_is_a_permutation_of_its_own(rows: int) -> None:
    schedule = Schedule(rows, seed=3)
    passes = schedule(np.arange(3 * rows)).reshape(3, rows)
    assert all(sorted(one.tolist()) == list(range(rows)) for one in passes)
    if rows >= 64:
        assert len({tuple(one.tolist()) for one in passes}) == 3
        assert passes[0].tolist() != list(range(rows))


def test_a_place_costs_the_same_anywhere_and_is_the_same_alone() -> None:
    schedule = Schedule(12_345, seed=1)
    far = np.array([10**12 + 17, 3, 10**12 + 17])
    assert schedule(far).tolist() == [int(schedule(far[i : i + 1])[0]) for i in range(3)]


def test_the_seed_decides_the_order() -> None:
    places = np.arange(200)
    assert Schedule(200, 1)(places).tolist() == Schedule(200, 1)(places).tolist() != Schedule(200, 2)(places).tolist()


def test_keys_are_stable_numbers() -> None:
    """They decide every run's order: a change here is a change of all results."""
    assert key(0, "a", 1) == 1497209822362405998
    assert Schedule(10, seed=0)(np.arange(10)).tolist() == [1, 3, 9, 2, 6, 8, 7, 5, 4, 0]


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.7, 0.3], [0.999, 0.001], [0.6, 0.3, 0.1], [0.1] * 10])
def test_every_dataset_has_its_share_at_every_place(shares: list[float]) -> None:
    sizes = [11 + 7 * number for number in range(len(shares))]
    rows = Mixture(sizes, shares, seed=5)(np.arange(3000))
    owners = np.searchsorted(np.cumsum(sizes), rows, side="right")
    for number, share in enumerate(shares):
        count = np.cumsum(owners == number)
        assert np.abs(count - share * np.arange(1, 3001)).max() <= (0.5 if len(shares) == 2 else 1.5) + 1e-9


def test_a_mixture_reads_each_dataset_in_passes() -> None:
    rows = Mixture([4, 6], [0.4, 0.6], seed=5)(np.arange(40))
    assert np.bincount(rows).tolist() == [4] * 10
    assert Mixture([4, 6], [0.4, 0.6], seed=5)(np.array([39, 0])).tolist() == [rows[39], rows[0]]


def test_one_dataset_is_no_mixture() -> None:
    places = np.arange(30)
    assert mixed([10], [1.0], seed=2)(places).tolist() == Schedule(10, 2)(places).tolist()


@pytest.mark.parametrize("batches", [1, 31, 32, 33, 75])
def test_grouping_by_length_keeps_the_rows_of_the_run(batches: int) -> None:
    size, rows = 4, 100
    lengths = np.random.default_rng(0).integers(1, 500, rows)
    order = Schedule(rows, seed=3)
    grouped = GroupedByLength(order, lengths, batch_size=size, num_batches=batches, seed=3)
    places = np.arange(batches * size)
    assert sorted(grouped(places).tolist()) == sorted(order(places).tolist())
    again = GroupedByLength(order, lengths, batch_size=size, num_batches=batches, seed=3)
    last = np.arange((batches - 1) * size, batches * size)
    assert again(last).tolist() == grouped(places)[last].tolist()  # also right after a restart


def test_grouping_by_length_saves_most_of_the_padding() -> None:
    size, batches = 8, 64
    lengths = np.random.default_rng(0).integers(8, 512, 512)
    order = Schedule(512, seed=3)
    grouped = GroupedByLength(order, lengths, batch_size=size, num_batches=batches, seed=3)

    def padding(rows: np.ndarray) -> float:
        dealt = lengths[rows].reshape(batches, size)
        return float((dealt.max(1) * size).sum() / dealt.sum()) - 1

    places = np.arange(batches * size)
    assert padding(grouped(places)) < 0.05 < 0.5 < padding(order(places))
    means = lengths[grouped(places)].reshape(batches, size).mean(1)
    assert abs(np.corrcoef(means, np.arange(batches))[0, 1]) < 0.5  # short and long batches stay mixed over time


def test_past_the_end_of_the_run_there_is_no_batch() -> None:
    grouped = GroupedByLength(Schedule(10, 1), np.arange(10), batch_size=2, num_batches=4, seed=1)
    with pytest.raises(ValueError, match="4 batches"):
        grouped(np.array([2 * 32 * 4]))


def test_rows_in_order_are_the_schedules() -> None:
    rows = [f"row {number}" for number in range(50)]
    schedule = Schedule(50, 9)
    view = InOrder(rows, schedule, 5000)
    places = [0, 49, 50, 2047, 2048, 4999, 3]
    assert view.__getitems__(places) == [rows[row] for row in schedule(np.array(places))]
    assert len(view) == 5000
