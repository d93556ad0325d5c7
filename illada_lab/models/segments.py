"""Segments laid one after the other without padding."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from illada_lab.shapes import Segments


@dataclass(frozen=True)
class PackedSegments:
    """Segments laid one after the other on a single axis of N positions, without padding.

    Attributes:
        offsets: where each segment starts, and N at the end; int64 [S + 1], strictly rising from 0 (`cu_seqlens`).

    Raises:
        ValueError: the offsets do not start at 0 or do not rise.
    """

    offsets: Int[Tensor, " S_plus_1"]

    def __post_init__(self) -> None:
        if self.offsets.numel() < 2 or int(self.offsets[0]) != 0 or not bool((self.offsets.diff() > 0).all()):
            raise ValueError(
                f"cu_seqlens = {self.offsets.tolist()[:8]}; offsets start at 0, rise, and end at the number of tokens; "
                "for example [0, 5, 12]"
            )

    @cached_property
    def lengths(self) -> Int[Tensor, " S"]:
        """Positions of each segment."""
        return self.offsets.diff()

    @cached_property
    def max_length(self) -> int:
        """Positions of the longest segment."""
        return int(self.lengths.max())

    @cached_property
    def positions(self) -> Int[Tensor, " N"]:
        """Place of each position inside its own segment, from 0."""
        starts = torch.repeat_interleave(self.offsets[:-1], self.lengths)
        return torch.arange(int(self.offsets[-1]), device=self.offsets.device) - starts

    @cached_property
    def groups(self) -> list[Int[Tensor, "S_group length"]]:
        """Indices of the segments' positions, segments of equal length together, so that each group is one dense batch.

        Why: on a CPU a block-diagonal mask spends most of its arithmetic on pairs that do not see each other.
        """
        return [
            self.offsets[:-1][self.lengths == length][:, None] + torch.arange(int(length), device=self.offsets.device)
            for length in self.lengths.unique()
        ]

    @classmethod
    def from_rows(cls, segment_ids: Segments) -> "PackedSegments":
        """Segments of the non-padding positions of padded rows, row by row."""
        rows = torch.arange(segment_ids.shape[0], device=segment_ids.device)[:, None]
        label = (rows * (int(segment_ids.max()) + 1) + segment_ids)[segment_ids > 0]
        _, counts = torch.unique_consecutive(label, return_counts=True)
        return cls(torch.cat((counts.new_zeros(1), counts.cumsum(0))))
