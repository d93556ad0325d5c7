"""Mixtures: shares hold in every round, each part is used up before it begins again, and any position is found at once."""

from collections import Counter

import numpy as np
import pytest

from illada_lab.data.mixture import ROUND, Mixed, shares
from illada_lab.data.order import Computed, StreamOrder


def owners(rows: np.ndarray, sizes: list[int]) -> np.ndarray:
    return np.searchsorted(np.cumsum(sizes), rows, side="right")


def test_shares_hold_in_every_round_and_nearly_in_every_stretch():
    sizes, weights = [5000, 300, 70_000], [0.7, 0.05, 0.25]
    rows = Mixed(sizes=sizes, weights=weights, seed=1)(np.arange(4 * ROUND))
    part = owners(rows, sizes)
    for number in range(4):
        found = np.bincount(part[number * ROUND : (number + 1) * ROUND], minlength=3)
        assert np.array_equal(found, shares(weights, 3)) and np.allclose(found / ROUND, weights, atol=1 / ROUND)
    # A tenth of a round holds the shares within four standard deviations of independent draws.
    stretch = np.bincount(part[: ROUND // 10], minlength=3) / (ROUND // 10)
    assert np.all(np.abs(stretch - weights) < 4 * np.sqrt(np.array(weights) / (ROUND // 10)))


def test_a_part_shows_every_row_once_before_it_begins_again():
    sizes = [50_000, 999]
    rows = Mixed(sizes=sizes, weights=[3, 1], seed=2)(np.arange(2 * ROUND))
    small = rows[owners(rows, sizes) == 1] - sizes[0]
    epochs = [small[start : start + 999].tolist() for start in range(0, len(small) - 999, 999)]
    assert len(epochs) >= 8 and all(sorted(epoch) == list(range(999)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == len(epochs)
    large = Counter(rows[owners(rows, sizes) == 0].tolist())
    assert max(large.values()) == 1


def test_any_position_is_found_without_those_before_it():
    order = Mixed(sizes=[10, 1000], weights=[1, 2], seed=3)
    whole = order(np.arange(3 * ROUND))
    again = Mixed(sizes=[10, 1000], weights=[1, 2], seed=3)
    for position in (2 * ROUND + 5, 3, ROUND - 1, ROUND):
        assert again(np.array([position]))[0] == whole[position]
    assert not np.array_equal(whole, Mixed(sizes=[10, 1000], weights=[1, 2], seed=4)(np.arange(3 * ROUND)))


@pytest.mark.parametrize(
    "make", [lambda: Mixed(sizes=[7, 90], weights=[1, 3], seed=0), lambda: Computed(n_rows=97, seed=0)]
)
def test_ranks_share_every_batch_and_a_resumed_order_goes_on(make):
    def batches(n, **place):
        order = StreamOrder(n_rows=97, batch_size=8, seed=0, order=make(), **place)
        return [batch for batch, _ in zip(order, range(n), strict=False)]

    whole = batches(40)
    joined = [a + b for a, b in zip(batches(40, rank=0, world_size=2), batches(40, rank=1, world_size=2), strict=True)]
    assert joined == whole and batches(10, start_batch=30) == whole[30:]
    positions = [position for batch in whole for position, _ in batch]
    assert positions == list(range(320))


def test_an_epoch_of_a_computed_order_is_a_permutation_and_the_next_another():
    rows = Computed(n_rows=97, seed=0)(np.arange(97 * 3)).reshape(3, 97)
    assert all(sorted(epoch) == list(range(97)) for epoch in rows.tolist())
    assert not np.array_equal(rows[0], rows[1])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "2 parts of data; one weight for each"),
        ([1.0, 0.0], "a share is above 0"),
        ([1.0, float("nan")], "a share is above 0"),
        ([1.0, 1e-9], "a share below 1/16384 may have no place"),
    ],
)
def test_weights_that_cannot_be(weights, message):
    with pytest.raises(ValueError, match=message):
        shares(weights, 2)
