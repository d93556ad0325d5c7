"""What the data layer hands to an objective: rows of tokens cut into segments."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from illada_lab.shapes import Segments, Tokens


@dataclass
class Batch:
    """Rows of clean tokens.

    A *segment* is what the model sees as one sequence: two positions attend to each other exactly when they stand in
    the same row and carry the same segment id above 0. iLLaDA packs without padding and hands the segments' offsets to a
    variable-length attention kernel (paper, pre-training recipe); rows of one fixed length hold the same information
    with shapes that never change, which `torch.compile` and a CPU want.

    Attributes:
        tokens: clean tokens x0, int64 [B, L].
        segment_ids: int64 [B, L]; 0 = padding, then 1, 2, ... not falling along a row.
        is_prompt: bool [B, L]; true where an instruction, not the answer, stands (all false outside of fine-tuning).
        index: int64 [B]; number of each row in the data stream of the run, the same for every world size and
            micro-batch. The randomness of masking depends on it and on nothing else that changes between machines.
    """

    tokens: Tokens
    segment_ids: Segments
    is_prompt: Bool[Tensor, "B L"]
    index: Int[Tensor, " B"]

    @property
    def is_valid(self) -> Bool[Tensor, "B L"]:
        """True where a token of the data stands."""
        return self.segment_ids > 0

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})
