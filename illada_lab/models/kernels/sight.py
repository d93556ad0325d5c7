"""Who sees whom in a batch of rows, in the forms that kernels ask for."""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from illada_lab.models.segments import PackedSegments
from illada_lab.shapes import Segments


@dataclass(frozen=True)
class Sight:
    """Positions see their own segment, whole or up to the end of their own block.

    Attributes:
        segment_ids: number of the segment of each position, 0 for padding; None: every row is one segment.
        causal_block: positions per block; a position sees its own block and those before it, counted from the head of its segment.
            1: causal attention, as in the autoregressive twin. None: both directions. Above 1 only with `segment_ids`.
        packed: the segments, where the batch is one row [1, N] of segments one after the other.

    Raises:
        ValueError: `causal_block` is no such number, or lacks `segment_ids`.

    Source: block-causal attention is that of block diffusion (BD3-LM); iLLaDA's is None.
    """

    segment_ids: Segments | None = None
    causal_block: int | None = None
    packed: PackedSegments | None = None

    def __post_init__(self) -> None:
        if self.causal_block is not None and self.causal_block < 1:
            raise ValueError(f"causal_block = {self.causal_block}; a block has positions; 1 or more, or None")
        if self.segment_ids is None and self.causal_block not in (None, 1):
            raise ValueError(
                f"causal_block = {self.causal_block}; blocks are counted inside segments; give segment_ids (ones: whole rows)"
            )

    @classmethod
    def of_packed(cls, segments: PackedSegments, causal_block: int | None = None) -> "Sight":
        """The sight of packed segments, seen as one row."""
        numbers = torch.arange(1, len(segments.lengths) + 1, device=segments.offsets.device)
        return cls(torch.repeat_interleave(numbers, segments.lengths)[None], causal_block, segments)

    @cached_property
    def is_whole(self) -> bool:
        """Whether every row is one segment without padding: nothing to keep apart."""
        return self.segment_ids is None or bool((self.segment_ids == self.segment_ids[:, :1]).all())

    @cached_property
    def block_ids(self) -> Int[Tensor, "B L"] | None:
        """Number of the block of each position inside its segment; None where both directions are seen."""
        if self.causal_block is None or self.segment_ids is None:
            return None
        place = torch.arange(self.segment_ids.shape[1], device=self.segment_ids.device)
        start = torch.where(self._is_start, place, 0).cummax(1).values
        return (place - start) // self.causal_block

    @property
    def mask(self) -> Bool[Tensor, "B 1 L L"] | None:
        """Which key (last axis) each query may attend to; None: all. Padding sees padding, so that no softmax is empty."""
        return self.mask_of(slice(None))

    def mask_of(self, queries: slice) -> Bool[Tensor, "B 1 C L"] | None:
        """`mask` of the queries of some columns."""
        if self.segment_ids is None:
            return None
        seen = self.segment_ids[:, None, queries, None] == self.segment_ids[:, None, None, :]
        blocks = self.block_ids
        return seen if blocks is None else seen & (blocks[:, None, queries, None] >= blocks[:, None, None, :])

    @cached_property
    def is_split(self) -> bool:
        """Whether a segment lies in several pieces with padding between them: such a batch has no offsets."""
        if self.segment_ids is None:
            return False
        highest_before = F.pad(self.segment_ids, (1, 0))[:, :-1].cummax(1).values
        is_second_piece = self._is_start & (self.segment_ids > 0) & (self.segment_ids <= highest_before)
        return bool(is_second_piece.any())

    def offsets(self, n_rows: int, length: int, device: torch.device) -> Int[Tensor, " S_plus_1"]:
        """Where segments start on the axis of all B * L positions, and its end; runs of padding are segments of their own. int32.

        Args:
            n_rows: B, for rows without segment numbers.
            length: L.
            device: where the rows are.
        """
        if self.packed is not None:
            return self.packed.offsets.to(torch.int32)
        if self.segment_ids is None:
            return torch.arange(0, (n_rows + 1) * length, length, dtype=torch.int32, device=device)
        starts = self._is_start.flatten().nonzero()[:, 0]
        return F.pad(starts, (0, 1), value=n_rows * length).to(torch.int32)

    @cached_property
    def _is_start(self) -> Bool[Tensor, "B L"]:
        assert self.segment_ids is not None, "rows without segment numbers start where they start"
        before = F.pad(self.segment_ids, (1, 0), value=-1)[:, :-1]
        return self.segment_ids != before
