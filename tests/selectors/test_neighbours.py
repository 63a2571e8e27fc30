"""SPAttention and RetroAttention against slow literal readings of their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from indexer_lab.errors import InputError
from indexer_lab.measures import MEASURES, Answer, Block, Ground
from indexer_lab.measures.concentration import concentration
from indexer_lab.selectors import selector
from indexer_lab.selectors.retro import union_sizes
from indexer_lab.targets import target
from indexer_probes.records import LayerRecord, MaskRule, PlainKeys


def record(keys=23, rows=None, heads=4, window=None):
    draw = torch.Generator().manual_seed(keys)
    rows = keys if rows is None else rows
    return LayerRecord(
        layer=1,
        queries=torch.randn(heads, rows, 6, generator=draw),
        keys=PlainKeys(
            torch.randn(2, keys, 6, generator=draw), torch.randn(2, keys, 5, generator=draw)
        ),
        positions=torch.arange(keys - rows, keys),
        scale=0.4,
        mask=MaskRule(window),
    )


def kept(support):
    """Sets [head][row] of the positions in a support with one set a head."""
    return [[set(row.tolist()) - {-1} for row in head] for head in support]


def band(head, query, keys, heads, window=None):
    """The literal definition."""
    width = keys // heads + (1 if head < keys % heads else 0)
    start = head * (keys // heads) + min(head, keys % heads)
    return {
        j
        for j in range(keys)
        if j <= query
        and start <= query - j < start + width
        and (window is None or query - j < window)
    }


@pytest.mark.parametrize("keys", [23, 24, 3])
@pytest.mark.parametrize("window", [None, 9])
def test_bands_are_their_definition(keys, window):
    given = record(keys, window=window)
    picked = kept(selector("sp_attention").fit(given).top(keys))
    for head in range(4):
        for query in range(keys):
            assert picked[head][query] == band(head, query, keys, 4, window)


def test_bands_cover_every_distance_once():
    picked = kept(selector("sp_attention").fit(record(23)).top(23))
    seen = [key for head in range(4) for key in picked[head][-1]]
    assert sorted(seen) == list(range(23))


def test_a_small_budget_keeps_the_nearest_of_a_band_and_length_sets_the_bands():
    given = record(23)
    assert selector("sp_attention").fit(given).top(2)[1, -1].tolist() == [16, 15]
    assert kept(selector("sp_attention:length=8").fit(given).top(9))[1][-1] == {20, 19}
    with pytest.raises(InputError, match="length = 0"):
        selector("sp_attention:length=0")


def test_every_measure_bears_an_empty_support():
    given = record(23)
    support = selector("sp_attention").fit(given).top(6)
    assert (support[3, 0] == -1).all()  # the last head's band begins 18 keys back
    ground = Ground(Block(given, slice(None)), target("per_head"), 6)
    answer = Answer(ground, support, None, 6)
    found = {name: float(measure(answer)[3, 0]) for name, measure in MEASURES.items()}
    zero = ("recall", "jaccard", "mass", "mass_ratio", "top1", "duplicates", "future")
    assert {name: found[name] for name in zero} == dict.fromkeys(zero, 0.0)
    assert found["kl"] == math.inf
    assert found["output_error"] == pytest.approx(1.0)  # the output is zero
    assert found["output_bound"] >= 1.0
    assert found["missing"] == 1  # of one visible key
    selected = concentration(given, support)
    assert float(selected["mass"][3, 0]) == 0.0
    assert math.isnan(float(selected["selected_entropy"][3, 0]))


def page_scores(given, size):
    """score_j = sum_i max(q_i min_ij, q_i max_ij) over the page's keys at or before the query."""
    pages = -(-given.length // size)
    scores = torch.full((given.heads, given.rows, pages), float("-inf"))
    for head in range(given.heads):
        keys = given.float_keys[head // given.group]
        for row, position in enumerate(given.positions.tolist()):
            for page in range(pages):
                held = [at for at in range(page * size, (page + 1) * size) if at <= position]
                window = given.mask.window or given.length
                if not any(position - at < window for at in held):
                    continue
                score = 0.0
                for channel in range(keys.shape[1]):
                    query = float(given.queries[head, row, channel])
                    values = [float(keys[at, channel]) for at in held]
                    score += max(query * min(values), query * max(values))
                scores[head, row, page] = score
    return scores


def loaded(given, load, size):
    """Keys [head][row] of the `load` best pages by the literal page score."""
    scores = page_scores(given, size)
    picked = []
    for head in scores:
        picked.append([])
        for row, query in zip(head, given.positions.tolist(), strict=True):
            order = sorted(range(len(row)), key=lambda page: (-float(row[page]), page))
            pages = [page for page in order[:load] if row[page] > -math.inf]
            keys = {at for page in pages for at in range(page * size, (page + 1) * size)}
            picked[-1].append({at for at in keys if at <= query})
    return picked


def unions(given, load, size, window):
    """Keys [head][row] that steps t to t + window - 1 load and query t may see."""
    own = loaded(given, load, size)
    visible = given.visible(slice(None))
    result = []
    for head in own:
        result.append([])
        for row in range(given.rows):
            keys = set().union(*head[row : row + window])
            result[-1].append({key for key in keys if key < given.length and visible[row, key]})
    return result


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("hides", [None, 9])
def test_a_budget_that_a_union_fills_gives_the_union(window, hides):
    given = record(23, rows=8, window=hides)
    ranker = selector(f"retro:page=4,window={window}").fit(given)
    for load in (1, 2, 3, 6):
        expected = unions(given, load, 4, window)
        for head in range(given.heads):
            for row in range(given.rows):
                wanted = expected[head][row]
                if wanted:
                    assert kept(ranker.top(len(wanted)))[head][row] == wanted


def test_a_window_of_one_step_is_pages_alone():
    given = record(23, rows=8)
    picked = kept(selector("retro:page=1,window=1").fit(given).top(5))
    assert picked == kept(selector("exact").fit(given).top(5))


def test_union_sizes_count_what_steps_load():
    given = record(23, rows=8)
    sizes = union_sizes(given, load=8, page=4, window=3)
    own = kept(selector("retro:page=4,window=1").fit(given).top(8))
    for head in range(given.heads):
        for row, query in enumerate(given.positions.tolist()):
            union = set().union(*own[head][row : row + 3])
            assert sizes[head, row] == len({key for key in union if key <= query})


def test_what_retro_cannot_do_is_one_line():
    gaps = record(23, rows=8).at(torch.tensor([0, 1, 4]))
    with pytest.raises(InputError, match=r"position 19 right after 16.*--positions last:N"):
        selector("retro").fit(gaps)
    with pytest.raises(InputError, match="window = 0"):
        selector("retro:window=0")
    with pytest.raises(InputError, match="page = 0"):
        selector("retro:page=0")
