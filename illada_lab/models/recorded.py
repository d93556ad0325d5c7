"""A predictor whose passes over a few tokens are recorded as CUDA graphs and replayed."""

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import finalize

import torch
from torch import Tensor

from illada_lab.models.cache import Cache, LayerCache
from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.models.spec import ModelSpec
from illada_lab.tokens import SpecialTokens

Run = Callable[[], Tensor]

# Passes of a shape before it is recorded: recording takes about as long as four of them.
USES_BEFORE_RECORDING = 4
# Shapes of canvases whose caches and recordings are kept. Our choice: a set of prompts of many lengths would keep one each.
MAX_SHAPES = 8
N_WARM_UP = 3


def cuda_graph(run: Run) -> Run:
    """Record what a function launches; calling the outcome launches it again, on the same memory.

    Args:
        run: launches the same kernels on the same tensors at every call, and never waits for the device.

    Returns:
        Replays the graph and returns the tensor that `run` returned when it was recorded, with new content.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is made once at first use, libraries' workspaces for one, must not be recorded
        for _ in range(N_WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


class RecordedPredictor:
    """A mask predictor for decoding on a GPU: the same numbers with one launch for a pass instead of one for every kernel.

    A pass over a block of 32 tokens is so little work that launching its kernels, more than a thousand at 8B, takes longer than running
    them. Passes of a shape are recorded after a few uses; where they would not come again (rows of a batch that finish) nothing is.
    Passes without a cache are recorded as passes over a whole canvas.

    Args:
        predictor: on a CUDA device, not training.
        record: turns a function into its replay.

    Raises:
        ValueError: the predictor is not on a CUDA device.

    Source: our choice.
    """

    def __init__(self, predictor: MaskPredictor, record: Callable[[Run], Run] = cuda_graph) -> None:
        device = predictor.head_weight.device.type
        if record is cuda_graph and device != "cuda":
            raise ValueError(f"recorded; the predictor is on {device}, and graphs are CUDA's; use the predictor itself")
        self.inner, self._record = predictor, record
        self._free: OrderedDict[tuple[int, int], list[_Kept]] = OrderedDict()

    @property
    def tokens(self) -> SpecialTokens:
        """Special tokens of the vocabulary."""
        return self.inner.tokens

    @property
    def spec(self) -> ModelSpec:
        """Sizes."""
        return self.inner.spec

    @property
    def head_weight(self) -> Tensor:
        """See `MaskPredictor`; it tells where the model is, and how large its vocabulary."""
        return self.inner.head_weight

    @torch.inference_mode()
    def __call__(self, x: Tensor, is_valid: Tensor | None = None) -> Tensor:
        """See `MaskPredictor`."""
        return self.inner(x, is_valid)

    @torch.inference_mode()
    def logits_at(self, x: Tensor, is_wanted: Tensor, is_valid: Tensor | None = None) -> Tensor:
        """See `MaskPredictor`."""
        h = self.hidden_window(x, 0, self.new_cache(*x.shape), is_valid)
        return self.head(h[is_wanted])

    @torch.inference_mode()
    def new_cache(self, n_rows: int, length: int) -> Cache:
        """See `MaskPredictor`; a cache that nobody holds any more is given out again, with what was recorded of it."""
        shape = (n_rows, length)
        free = self._free.setdefault(shape, [])
        self._free.move_to_end(shape)
        if len(self._free) > MAX_SHAPES:
            self._free.popitem(last=False)
        kept = free.pop() if free else _Kept(self.inner.new_cache(n_rows, length).layers)
        cache = _Given(kept.layers, kept)
        finalize(cache, free.append, kept)
        return cache

    @torch.inference_mode()
    def hidden_window(
        self, x: Tensor, start: int, cache: Cache, is_valid: Tensor | None = None, columns: slice | None = None
    ) -> Tensor:
        """See `MaskPredictor`."""
        # All columns, whichever are wanted: a recording for each would cost more than the last layer saves.
        wanted = slice(None) if columns is None else columns
        if not isinstance(cache, _Given):
            return self.inner.hidden_window(x, start, cache, is_valid, columns)
        kept, what = cache.kept, (x.shape[1], is_valid is None)
        if what not in kept.recordings:
            kept.uses[what] += 1
            if kept.uses[what] <= USES_BEFORE_RECORDING:
                # A tensor, not a number: compiled layers would be compiled anew for every place.
                at = torch.tensor(start, device=x.device)
                return self.inner.hidden_window(x, at, cache, is_valid)[:, wanted]
            kept.recordings[what] = self._recording(x, start, cache.layers, is_valid)
        return kept.recordings[what](x, start, is_valid)[:, wanted]

    def head(self, h: Tensor) -> Tensor:
        """See `MaskPredictor`."""
        return self.inner.head(h)

    def _recording(self, x: Tensor, start: int, layers: list[LayerCache], is_valid: Tensor | None) -> "_Recording":
        x, at, cache = x.clone(), torch.tensor(start, device=x.device), Cache(layers)
        is_valid = None if is_valid is None else is_valid.clone()
        return _Recording(x, at, is_valid, self._record(lambda: self.inner.hidden_window(x, at, cache, is_valid)))


@dataclass
class _Recording:
    """A recorded pass and the tensors it reads."""

    x: Tensor
    start: Tensor
    is_valid: Tensor | None
    replay: Run

    def __call__(self, x: Tensor, start: int, is_valid: Tensor | None) -> Tensor:
        """The pass for other tokens, at another place."""
        self.x.copy_(x)
        self.start.fill_(start)
        if self.is_valid is not None:
            assert is_valid is not None, "recordings with and without padding are kept apart"
            self.is_valid.copy_(is_valid)
        return self.replay().clone()


@dataclass
class _Kept:
    """A cache's memory, and what was recorded on it."""

    layers: list[LayerCache]
    recordings: dict[tuple[int, bool], _Recording] = field(default_factory=dict)
    uses: Counter[tuple[int, bool]] = field(default_factory=Counter)


@dataclass(eq=False)
class _Given(Cache):
    """A cache that was given out."""

    kept: _Kept
