"""Counter-based noise: uniform, independent of the batch, different wherever it should be."""

import pytest
import torch

from illada_lab.samplers.noise import RowNoise


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def indices(*values):
    return torch.tensor(values)


def test_uniform_in_every_direction():
    """Mean, variance and neighbour correlation over tokens, positions, passes and rows; 4 standard errors."""
    n = 64
    noise = RowNoise.start(torch.Generator().manual_seed(0), n)
    row, step, position = (x.flatten() for x in torch.meshgrid(*[torch.arange(n)] * 3, indexing="ij"))
    u = noise.at(row, step, position)(2).view(n, n, n, 2)
    assert u.dtype == torch.float64 and float(u.min()) >= 0 and float(u.max()) < 1
    count = u.numel()
    assert abs(float(u.mean()) - 0.5) < 4 * (1 / 12 / count) ** 0.5
    assert abs(float(u.var()) - 1 / 12) < 4 * (1 / 180 / count) ** 0.5
    z = (u - 0.5) * 12**0.5
    for axis in range(4):
        length = u.shape[axis]
        pairs = z.narrow(axis, 0, length - 1) * z.narrow(axis, 1, length - 1)
        assert abs(float(pairs.mean())) < 4 / pairs.numel() ** 0.5, axis
    assert len(u.unique()) == count


def test_rows_do_not_depend_on_their_batch():
    one, two = (RowNoise.start(seeded(s), 1) for s in (5, 7))
    both = RowNoise.start(seeded(5, 7), 2)
    together = both.at(indices(1, 0), indices(3, 3), indices(0, 9))(4)
    assert torch.equal(together[0], two.at(indices(0), indices(3), indices(0))(4)[0])
    assert torch.equal(together[1], one.at(indices(0), indices(3), indices(9))(4)[0])


def test_numbers_go_on_where_they_were():
    noise = RowNoise.start(seeded(5), 1)
    whole = noise.at(indices(0), indices(1), indices(2))(6)
    parts = noise.at(indices(0), indices(1), indices(2))
    assert torch.equal(torch.cat((parts(2), parts(4)), 1), whole)


def test_one_generator_gives_every_row_a_key_of_its_own():
    noise = RowNoise.start(torch.Generator().manual_seed(0), 3)
    assert len(noise.keys.unique()) == 3
    with pytest.raises(ValueError, match="generator = 2 of them; one for all rows or one per row; 1 or 3"):
        RowNoise.start(seeded(0, 1), 3)
