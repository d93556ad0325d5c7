"""Books of memory: counted by hand on tensors whose sizes are known."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from illada_lab.planner.ledger import ExpectedCount, Ledger

KIB = 1024


def kib(n: int) -> torch.Tensor:
    return torch.empty(n * KIB // 4)


def test_a_storage_counts_once_and_until_its_last_view_is_gone():
    with Ledger() as ledger:
        whole = kib(4)
        view = whole[:8].view(2, 4)
        assert ledger.alive.total() == 4 * KIB
        del whole
        assert ledger.alive.total() == 4 * KIB
        del view
        assert ledger.alive.total() == 0 and ledger.peak.total() == 4 * KIB


def test_what_autograd_saves_stays_until_the_backward_pass():
    weight = torch.nn.Parameter(torch.ones(1))
    with Ledger() as ledger:
        x = kib(4)
        y = (x * 2).exp() * weight  # exp keeps its own outcome; the product keeps it too
        del x
        kept = ledger.alive.total()
        assert kept == 2 * 4 * KIB  # exp's outcome and y
        y.sum().backward()
        del y
        assert ledger.alive.total() <= 8  # the weight's gradient and a scalar's


def test_the_peak_is_split_by_label_and_looked_for_anew_after_a_reset():
    with Ledger(lasting=("weights",)) as ledger:
        ledger.label = "weights"
        first = kib(4)
        ledger.label = "passing"
        second = kib(8)
        del second
        assert ledger.peak == {"weights": 4 * KIB, "passing": 8 * KIB}
        ledger.reset_peak()
        ledger.relabel([first], "other")
        third = kib(1)
        assert ledger.peak.total() == 5 * KIB and ledger.alive["other"] == 4 * KIB
        assert ledger.passing_peak["passing"] == KIB
        del third


def test_inside_fake_mode_nothing_is_allocated_and_the_count_is_the_same():
    with FakeTensorMode(), Ledger() as ledger:
        huge = torch.empty(2**44, dtype=torch.uint8)
        assert ledger.alive.total() == 2**44
        del huge


def test_a_boolean_index_picks_the_expected_number_of_rows_and_lets_gradients_through():
    with FakeTensorMode(), ExpectedCount(5):
        h = torch.empty(2, 4, 3, requires_grad=True)
        picked = h[torch.empty(2, 4, dtype=torch.bool)]
        assert picked.shape == (5, 3)
        picked.sum().backward()
        assert h.grad is not None and h.grad.shape == h.shape


def test_places_that_are_looked_up_first_are_as_many():
    with FakeTensorMode(), Ledger() as ledger, ExpectedCount(5):
        assert torch.empty(2, 4, dtype=torch.bool).nonzero().shape == (5, 2)
        where = torch.empty(8, dtype=torch.bool).nonzero()[:, 0]
        assert ledger.alive.total() == 5 * where.element_size()  # they take memory, as they do with data
        assert torch.empty(8, 3)[where].shape == (5, 3)
