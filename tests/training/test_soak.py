"""The soak at smoke size; `make soak` is the long one."""

import pytest

from tests.training.soak import WAYS, Soak


@pytest.mark.slow
def test_a_run_killed_in_every_way_ends_as_if_it_had_not_been(tmp_path):
    result = Soak(tmp_path, n_kills=4, n_steps=40)()
    assert result["ways"] == dict.fromkeys(WAYS, 1) and result["n_steps"] == 40
    assert [kill["is_half_written"] for kill in result["kills"] if kill["way"] == "kill while saving"] == [True]
    assert result["is_same_losses"] and result["is_same_weights"] and result["is_same_optimiser"]
