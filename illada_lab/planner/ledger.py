"""Books of memory: every storage that torch allocates, what it is for, and the moment when there was most of it."""

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FLOAT32 = 4  # bytes
# Read at every step of autograd and allocating nothing.
_SILENT = (torch.ops.prim.device.default,)


class Ledger(TorchDispatchMode):
    """Counts the bytes of live storages under a label; inside `FakeTensorMode` nothing is allocated and the count is the same.

    A storage is booked under the label of the moment it appears, once, however many tensors look at it, and is struck off when the
    last of them is gone.

    Args:
        lasting: labels of what outlives a step; `passing_peak` is the peak of everything else.

    Attributes:
        label: what new storages are booked under; None: new ones are not booked.
        alive: live bytes by label.
        peak: live bytes by label when their sum was largest since `reset_peak`.
        passing_peak: the same for the sum without the lasting ones.

    Source: the method of `torch.distributed._tools.mem_tracker` (weak references to storages), without its module hooks, which
        compiled and checkpointed layers do not go through.
    """

    def __init__(self, lasting: Iterable[str] = ()) -> None:
        super().__init__()
        self.label: str | None = "other"
        self.lasting = frozenset(lasting)
        self.alive: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.passing_peak: Counter[str] = Counter()
        self._entries: dict[int, tuple[str, int]] = {}
        self._highest = self._highest_passing = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what was asked, and book what has come of it."""
        out = func(*args, **(kwargs or {}))
        if func not in _SILENT:
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor):
                    self._book(leaf)
        return out

    def relabel(self, tensors: Iterable[Tensor], label: str) -> None:
        """Book storages under another label from now on."""
        for tensor in tensors:
            key = tensor.untyped_storage()._cdata
            if key in self._entries:
                old, n_bytes = self._entries[key]
                self._entries[key] = (label, n_bytes)
                self.alive[old] -= n_bytes
                self.alive[label] += n_bytes

    def relabel_all(self, old: str, label: str) -> None:
        """Book everything that is alive under one label under another."""
        self._entries = {key: (label if was == old else was, n) for key, (was, n) in self._entries.items()}
        self.alive[label] += self.alive.pop(old, 0)

    def reset_peak(self) -> None:
        """Look for the peak from here on."""
        self._highest = self._highest_passing = -1
        self._look()

    def _book(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._entries or self.label is None:
            return
        self._entries[storage._cdata] = (self.label, storage.nbytes())
        self.alive[self.label] += storage.nbytes()
        weakref.finalize(storage, self._strike_off, storage._cdata)
        self._look()

    def _strike_off(self, key: int) -> None:
        label, n_bytes = self._entries.pop(key)
        self.alive[label] -= n_bytes

    def _look(self) -> None:
        total = self.alive.total()
        passing = total - sum(self.alive[label] for label in self.lasting)
        if total > self._highest:
            self._highest, self.peak = total, self.alive.copy()
        if passing > self._highest_passing:
            self._highest_passing, self.passing_peak = passing, self.alive.copy()


class ExpectedCount(TorchDispatchMode):
    """Answers what only data could tell: so many positions of a boolean tensor are true, and no question of `bool(tensor)` is.

    Positions are asked for by an index, `tensor[is_wanted]`, or looked up first, `is_wanted.nonzero()`.

    Questions are of the kind "is there nothing to keep apart in this batch?", where "no" is the case that takes memory.

    Args:
        n_picked: positions that are taken to be true in every boolean tensor.
    """

    def __init__(self, n_picked: int) -> None:
        super().__init__()
        self.n_picked = n_picked

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Put as many positions as expected in the place of a boolean index, find as many, and say "no" to a single truth."""
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return False
        if func is torch.ops.aten.nonzero.default and args[0].dtype == torch.bool:
            return torch.empty(self.n_picked, args[0].ndim, dtype=torch.long, device=args[0].device)
        if func is torch.ops.aten.index.Tensor:
            tensor, indices = args
            if len(indices) == 1 and indices[0].dtype == torch.bool:
                axes = indices[0].ndim
                places = torch.empty(axes, self.n_picked, dtype=torch.long, device=tensor.device).unbind()
                args = (tensor, list(places))
        return func(*args, **(kwargs or {}))
