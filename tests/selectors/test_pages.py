"""Page scores against a slow literal reading of their definition."""

from __future__ import annotations

import pytest
import torch

from indexer_lab.selectors.pages import Pages
from indexer_probes.records import LatentKeys, LayerRecord, MaskRule, PlainKeys


def record(keys=21, window=None, kv_heads=2):
    draw = torch.Generator().manual_seed(keys)
    positions = torch.tensor([0, 2, 7, 8, 13, keys - 1])
    return LayerRecord(
        layer=1,
        queries=torch.randn(4, len(positions), 6, generator=draw),
        keys=PlainKeys(torch.randn(kv_heads, keys, 6, generator=draw)),
        positions=positions,
        scale=0.4,
        mask=MaskRule(window),
    )


def literal(given, size):
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


@pytest.mark.parametrize("size", [1, 4, 5, 30])
@pytest.mark.parametrize("window", [None, 6])
def test_a_page_scores_what_its_bounds_allow(size, window):
    given = record(window=window)
    scores = Pages(given, size).scores(slice(None))
    assert torch.allclose(scores, literal(given, size), atol=1e-5)
    later = Pages(given, size).scores(slice(3, 5))
    assert torch.allclose(later, scores[:, 3:5], atol=1e-5)


def test_no_key_of_a_page_scores_more_than_its_page():
    given = record()
    pages = Pages(given, 4)
    products = given.products(given.queries, given.float_keys, slice(None))
    bound = pages.tokens(pages.scores(slice(None)))
    seen = given.visible(slice(None)).expand_as(products)
    assert (products[seen] <= bound[seen] + 1e-5).all()


def test_pages_of_one_token_are_the_products():
    given = record()
    pages = Pages(given, 1)
    products = given.products(given.queries, given.float_keys, slice(None))
    seen = given.visible(slice(None)).expand_as(products)
    assert torch.allclose(pages.scores(slice(None))[seen], products[seen], atol=1e-5)


def test_latent_keys_are_paged_as_the_heads_see_them():
    draw = torch.Generator().manual_seed(0)
    keys = LatentKeys(
        torch.randn(9, 3, generator=draw),
        torch.randn(9, 2, generator=draw),
        torch.randn(4, 4, 3, generator=draw),
    )
    queries = torch.randn(4, 2, 6, generator=draw)
    given = LayerRecord(0, queries, keys, torch.tensor([4, 8]), 1.0)
    assert torch.allclose(Pages(given, 4).scores(slice(None)), literal(given, 4), atol=1e-5)


def test_a_page_says_the_same_of_each_of_its_tokens():
    pages = Pages(record(keys=16), 6)
    assert pages.count == 3
    assert pages.tokens(torch.tensor([3.0, 1.0, 2.0])).tolist() == [3.0] * 6 + [1.0] * 6 + [2.0] * 4


def test_costs_by_hand():
    cost = Pages(record(), 4).cost()  # 6 pages, 2 bounds, 6 channels of 4 bytes, 2 key heads
    assert cost.bytes_read == 6 * 2 * 6 * 4 * 2
    assert cost.multiply_adds == 6 * 2 * 6 * 4  # 4 query heads


def test_a_page_of_nothing_is_refused():
    with pytest.raises(ValueError, match="page = 0"):
        Pages(record(), 0)
