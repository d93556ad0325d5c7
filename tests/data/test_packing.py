"""Packing: count in = count out, order, segments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from illada_lab.data.packing import ConcatAndCut, Documents, Dropped, OnePerRow, WholeDocuments, pack_blocks

PAD = 1
lengths = st.lists(st.integers(0, 40), min_size=1, max_size=30)


def documents(sizes: list[int]) -> tuple[Documents, list[list[int]]]:
    """Documents in which no token occurs twice, the first half of each prompt."""
    starts = np.concatenate(([0], np.cumsum(sizes)))
    lists = [list(range(10 + start, 10 + start + size)) for start, size in zip(starts, sizes, strict=False)]
    return Documents.from_lists(lists, [[i < len(d) // 2 for i in range(len(d))] for d in lists]), lists


def check(rows, lists, length):
    """Each token exactly once, its flag with it; padding is 0 and at the end; segments count up from 1."""
    valid = rows.segment_ids > 0
    assert rows.tokens.shape[1] == length and (rows.tokens[~valid] == PAD).all() and not rows.is_prompt[~valid].any()
    assert sorted(rows.tokens[valid].tolist()) == sorted(i for d in lists for i in d)
    assert rows.n_tokens == sum(map(len, lists))
    prompt = {i for d in lists for i in d[: len(d) // 2]}
    assert set(rows.tokens[rows.is_prompt].tolist()) == prompt
    owner = {i: n for n, d in enumerate(lists) for i in d}
    for tokens, segments in zip(rows.tokens, rows.segment_ids, strict=True):
        n = int((segments > 0).sum())
        assert n and (segments[:n] > 0).all() and segments[0] == 1 and set(np.diff(segments[:n])) <= {0, 1}
        owners = [owner[i] for i in tokens[:n].tolist()]
        same_segment, same_owner = np.diff(segments[:n]) == 0, np.diff(owners) == 0
        # Tokens of one segment are neighbours in one document.
        assert same_owner[same_segment].all() and (np.diff(tokens[:n])[same_segment] == 1).all()


@pytest.mark.parametrize("packing", [ConcatAndCut(), WholeDocuments()], ids=["concat", "whole"])
@settings(max_examples=120, deadline=None)
@given(sizes=lengths, length=st.integers(2, 24))
def test_no_token_is_lost_or_doubled(packing, sizes, length):
    packed, lists = documents(sizes)
    check(packing(packed, length, PAD), lists, length)


@settings(max_examples=60, deadline=None)
@given(sizes=lengths, length=st.integers(2, 24))
def test_the_paper_pads_the_last_row_only_and_keeps_the_order(sizes, length):
    packed, lists = documents(sizes)
    rows = ConcatAndCut()(packed, length, PAD)
    assert rows.tokens[rows.segment_ids > 0].tolist() == [i for d in lists for i in d]
    assert (rows.segment_ids[:-1] > 0).all()


@settings(max_examples=60, deadline=None)
@given(sizes=lengths, length=st.integers(2, 24))
def test_a_document_that_fits_is_never_cut(sizes, length):
    packed, lists = documents(sizes)
    rows = WholeDocuments()(packed, length, PAD)
    row_of = {
        i: (r, int(s))
        for r, (row, seg) in enumerate(zip(rows.tokens, rows.segment_ids, strict=True))
        for i, s in zip(row, seg, strict=True)
    }
    for document in lists:
        pieces = [document[start : start + length] for start in range(0, len(document), length)]
        assert all(len({row_of[i] for i in piece}) == 1 for piece in pieces)
    # No row could be poured into another one.
    used = sorted((rows.segment_ids > 0).sum(1).tolist())
    assert len(used) < 2 or used[0] + used[1] > length or max(map(len, lists)) > length


@pytest.mark.parametrize("packing", [ConcatAndCut(), WholeDocuments(), OnePerRow()], ids=["concat", "whole", "one"])
@settings(max_examples=60, deadline=None)
@given(sizes=lengths, n_per_block=st.integers(1, 7), length=st.integers(2, 24))
def test_packing_in_blocks_loses_nothing_and_a_stream_is_cut_as_at_once(packing, sizes, n_per_block, length):
    if isinstance(packing, OnePerRow):
        sizes = [min(size, length) for size in sizes]
    whole, lists = documents(sizes)
    flags = [[i < len(d) // 2 for i in range(len(d))] for d in lists]
    blocks = (
        Documents.from_lists(lists[start : start + n_per_block], flags[start : start + n_per_block])
        for start in range(0, len(lists), n_per_block)
    )
    rows = list(pack_blocks(blocks, packing, length, PAD))
    assert sum(row.n_tokens for row in rows) == len(whole.tokens)
    if not rows:
        return
    joined = {
        name: np.concatenate([getattr(row, name) for row in rows]) for name in ("tokens", "segment_ids", "is_prompt")
    }
    at_once = packing(whole, length, PAD)
    if packing.is_stream:
        assert all(np.array_equal(joined[name], getattr(at_once, name)) for name in joined)
    assert sorted(joined["tokens"][joined["segment_ids"] > 0].tolist()) == sorted(whole.tokens.tolist())


def test_one_example_per_row():
    packed, lists = documents([3, 5, 1])
    rows = OnePerRow()(packed, 6, PAD)
    assert (
        rows.tokens.shape == (3, 6)
        and [row[:n].tolist() for row, n in zip(rows.tokens, (3, 5, 1), strict=True)] == lists
    )
    assert rows.segment_ids.max() == 1
    with pytest.raises(
        ValueError, match=r"example = 1; 5 tokens, .*cannot be cut .*1 too long among 3\); scale.length=5 or"
    ):
        OnePerRow()(packed, 4, PAD)


def test_an_example_that_is_too_long_has_its_number_in_the_data():
    blocks = [documents([3, 3, 3])[0], documents([3, 5])[0]]
    with pytest.raises(ValueError, match=r"example = 4; 5 tokens.* 1 too long among 5\).*data.drops_long=true"):
        list(pack_blocks(blocks, OnePerRow(), 4, PAD))


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(lengths, min_size=1, max_size=4), length=st.integers(2, 24))
def test_what_is_longer_than_a_row_is_left_out_and_nothing_else(sizes, length):
    blocks = [documents(some)[0] for some in sizes]
    dropped = Dropped(length)
    for block, left, some in zip(blocks, dropped.left(iter(blocks)), sizes, strict=True):
        expected = documents(some)[1]
        kept = [ids for ids in expected if len(ids) <= length]
        same = Documents.from_lists(kept, [[i < len(d) // 2 for i in range(len(d))] for d in kept])
        assert all(
            np.array_equal(getattr(left, name), getattr(same, name)) for name in ("tokens", "is_prompt", "offsets")
        )
        assert len(block.offsets) == len(some) + 1
    flat = [n for some in sizes for n in some]
    assert (dropped.n_seen, dropped.n, dropped.longest) == (len(flat), sum(n > length for n in flat), max(flat))


def test_split_and_join():
    packed, lists = documents([3, 0, 4])
    for n in range(8):
        first, rest = packed.split_at(n)
        assert len(first.tokens) == n and first.offsets[-1] == n and rest.offsets[0] == 0
        joined = Documents.join([first, rest])
        assert np.array_equal(joined.tokens, packed.tokens) and joined.offsets[-1] == 7


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30), n=st.integers(1, 8))
def test_pieces_hold_every_document_once(sizes, n):
    whole, _ = documents(sizes)
    pieces = list(whole.pieces(n))
    assert all(len(piece.offsets) - 1 <= n for piece in pieces) and [p.first for p in pieces] == list(
        range(0, len(sizes), n)
    )
    again = Documents.join(pieces)
    assert again.tokens.tolist() == whole.tokens.tolist() and again.offsets.tolist() == whole.offsets.tolist()
