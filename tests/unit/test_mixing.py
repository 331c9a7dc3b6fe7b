"""Mixtures that change over a run, and short contexts at its start."""

import numpy as np
import pytest

from pipelines.data.length_warmup import ShortContexts
from pipelines.data.mixing import Phase, PhasedMixture
from pipelines.data.schedule import Mixture, Turns
from pipelines.errors import DataError


def owners(mixture: PhasedMixture, sizes: list[int]) -> np.ndarray:
    return np.searchsorted(np.cumsum(sizes), mixture(np.arange(mixture.length)), side="right")


def phased(sizes: list[int], *phases: tuple[int, list[float]], length: int, caps: list[int | None] | None = None):
    parts = [Phase(start, tuple(shares)) for start, shares in phases]
    return PhasedMixture(sizes, parts, 5, length=length, caps=caps or [None] * len(sizes))


def taken(mixture: PhasedMixture) -> tuple[int, ...]:
    return tuple(np.sum([rows for _, _, rows in mixture.parts()], axis=0).tolist())


def test_one_phase_is_the_plain_mixture() -> None:
    sizes, shares = [40, 60, 9], [0.5, 0.3, 0.2]
    places = np.arange(700)
    found = phased(sizes, (0, shares), length=700)(places)
    assert found.tolist() == Mixture(sizes, shares, 5)(places).tolist()


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.5], [0.6, 0.3, 0.1], [0.0, 0.7, 0.3]])
def test_turns_before_a_position_are_those_that_were_had(shares: list[float]) -> None:
    turns, places = Turns(shares), np.arange(200)
    had = np.zeros((len(shares), 200), int)
    for dataset, numbers, where in turns.of(places):
        had[dataset, where] = 1
        assert numbers.tolist() == list(range(len(numbers)))
    assert had.sum(0).tolist() == [1] * 200
    for position in (0, 1, 7, 199):
        assert turns.before(position) == had[:, :position].sum(1).tolist()


def test_each_phase_has_its_shares_and_a_dataset_goes_on_where_it_was() -> None:
    sizes = [50, 30]
    mixture = phased(sizes, (0, [0.9, 0.1]), (80, [0.2, 0.8]), length=100)
    found = owners(mixture, sizes)
    assert np.bincount(found[:80]).tolist() == [72, 8] and np.bincount(found[80:]).tolist() == [4, 16]
    rows = mixture(np.arange(100))
    assert taken(mixture) == (76, 24)
    assert len(set(rows[found == 1].tolist())) == 24  # 24 of 30 rows: none twice, over both phases
    assert np.bincount(rows[found == 0]).max() == 2  # 76 of 50


def test_any_positions_give_what_the_whole_gives() -> None:
    mixture = phased([7, 11, 5], (0, [0.5, 0.5, 0]), (40, [0, 0.1, 0.9]), length=90, caps=[12, None, None])
    whole = mixture(np.arange(90))
    few = np.array([89, 3, 41, 40, 39, 3])
    assert mixture(few).tolist() == whole[few].tolist()


@pytest.mark.parametrize("cap", [1, 9, 10, 25])
def test_a_cap_is_kept_and_the_others_take_over_in_their_proportions(cap: int) -> None:
    sizes = [10, 100, 100]
    mixture = phased(sizes, (0, [0.5, 0.375, 0.125]), length=400, caps=[cap, None, None])
    counts = np.bincount(owners(mixture, sizes))
    assert counts[0] == cap and tuple(counts) == taken(mixture)
    assert counts[1] / counts[2] == pytest.approx(3, rel=0.05)
    (_, _, before), (_, full, after) = mixture.parts()  # a part of the run ends where the cap is reached
    assert full == pytest.approx(2 * cap, abs=1) and before[0] == cap and after[0] == 0


def test_caps_that_leave_too_little_are_refused() -> None:
    with pytest.raises(DataError, match=r"after 50% of the run every dataset .* raise max_epochs"):
        phased([10, 10], (0, [0.5, 0.5]), length=40, caps=[10, 10])
    exact = phased([10, 10], (0, [0.5, 0.5]), length=20, caps=[10, 10])
    assert taken(exact) == (10, 10)


def test_short_contexts_grow_and_lose_no_token() -> None:
    noise = ShortContexts(start=16, max_length=128, global_batch_size=4, steps=10)
    lengths = [noise.length_at(step) for step in range(12)]
    assert lengths[0] == 16 and lengths[10:] == [128, 128] and lengths == sorted(lengths)
    assert all(length % 8 == 0 for length in lengths) and len(set(lengths)) > 5
    row = [np.arange(100), np.arange(28)]
    pieces = noise(row, 7)  # in the second step
    assert np.concatenate(pieces).tolist() == np.concatenate(row).tolist()
    assert max(map(len, pieces)) == lengths[1] and len(pieces) == -(-100 // lengths[1]) + -(-28 // lengths[1])
    assert [len(piece) for piece in noise(row, 40)] == [100, 28]
