"""Shorter sequences in pre-training, so that a model of one length learns all lengths."""

from typing import Protocol, runtime_checkable

import torch

from illada_lab.diffusion.randomness import RowRandom
from illada_lab.shapes import Segments


@runtime_checkable
class Shorten(Protocol):
    """Turns some rows into shorter sequences by changing their segments; shapes stay."""

    def __call__(self, segment_ids: Segments, random: RowRandom) -> Segments:
        """Segment ids of the shortened rows."""
        ...


def _check(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"probability = {probability}; outside of a probability's range; 0 to 1")


class RandomCut:
    """With some probability a row is cut at a random place into two pieces that do not see each other; no token is lost.

    Args:
        probability: that a row is cut.

    Source: iLLaDA, pre-training recipe: 0.3, also in fine-tuning.
    """

    def __init__(self, *, probability: float = 0.3) -> None:
        _check(probability)
        self.probability = probability

    def __call__(self, segment_ids: Segments, random: RowRandom) -> Segments:
        """Segment ids with one boundary more in the rows that are cut, at 1 ... n - 1 of their n tokens."""
        is_cut, place = random.uniform(2).unbind(1)
        n_tokens = (segment_ids > 0).sum(1)
        cut = 1 + (place * (n_tokens - 1).clamp(min=0)).long()
        is_cut = (is_cut < self.probability) & (n_tokens > 1)
        # Padding sits at the end of a row, so "token number" and position agree for all tokens.
        position = torch.arange(segment_ids.shape[1], device=segment_ids.device)
        is_behind = is_cut[:, None] & (position >= cut[:, None]) & (segment_ids > 0)
        return segment_ids + is_behind.long()


class RandomLength:
    """With some probability only the first l positions of a row are used, l uniform; the tokens behind are lost.

    l is drawn from the whole width, padding at the end counted (`RandomCut` goes by the tokens): a row that is not full is shortened less
    often than `probability` says. Rows of a stream, as LLaDA's were, are full; those of whole documents are not, and the recorded results
    were made of such.

    Args:
        probability: that a row is shortened.

    Source: LLaDA, section on pre-training: 1 % of the data at a length drawn from 1 ... 4096.
    """

    def __init__(self, *, probability: float = 0.01) -> None:
        _check(probability)
        self.probability = probability

    def __call__(self, segment_ids: Segments, random: RowRandom) -> Segments:
        """Segment ids that are 0 behind the length drawn."""
        is_shortened, place = random.uniform(2).unbind(1)
        length = 1 + (place * segment_ids.shape[1]).long()  # not of the tokens: results were recorded with these draws
        position = torch.arange(segment_ids.shape[1], device=segment_ids.device)
        is_lost = (is_shortened < self.probability)[:, None] & (position >= length[:, None])
        return segment_ids.masked_fill(is_lost, 0)
