"""Permutations that are computed: each is one, keys give different ones, and small ones are spread evenly."""

from math import factorial

import numpy as np
import pytest

from illada_lab.data.permutation import Permutation


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 65_537])
def test_every_place_is_taken_once(n):
    for key in [(0,), (0, 1), (7, 3, 2)]:
        assert np.array_equal(np.sort(Permutation(n, *key)(np.arange(n))), np.arange(n))


def test_a_place_does_not_depend_on_which_others_are_asked_for():
    permutation = Permutation(1000, 3)
    whole = permutation(np.arange(1000))
    assert all(permutation(np.array([i]))[0] == whole[i] for i in range(0, 1000, 37))


def test_no_size_is_too_large():
    n = 2**61 + 5
    places = np.arange(100_000) * (n // 100_000)
    found = Permutation(n, 1)(places)
    assert len(np.unique(found)) == len(places) and found.min() >= 0 and found.max() < n
    # Uniform over the range: the mean of 100,000 draws is within four standard errors of the middle.
    assert abs(found.mean() / n - 0.5) < 4 * 12**-0.5 / len(places) ** 0.5


def test_all_orders_of_four_are_about_equally_likely():
    n_drawn = 4800
    counts: dict[tuple[int, ...], int] = {}
    for key in range(n_drawn):
        order = tuple(Permutation(4, key)(np.arange(4)).tolist())
        counts[order] = counts.get(order, 0) + 1
    expected = n_drawn / factorial(4)
    chi_square = sum((count - expected) ** 2 for count in counts.values()) / expected
    assert len(counts) == 24 and chi_square < 23 + 4 * 46**0.5  # mean and standard deviation of 23 degrees of freedom


def test_neighbours_do_not_stay_neighbours():
    found = Permutation(10_000, 5)(np.arange(10_000))
    step = np.diff(found)
    assert len(np.unique(step)) > 5000  # an affine map has two different steps
    # The two halves of a sorted corpus are mixed: places of the first half come from both about equally.
    assert abs((found[:5000] < 5000).mean() - 0.5) < 4 * 0.5 / 5000**0.5


@pytest.mark.parametrize("n", [0, -1, 2**62 + 1])
def test_sizes_that_cannot_be(n):
    with pytest.raises(ValueError, match=f"n = {n}; "):
        Permutation(n, 0)
