"""An indexer of units measured twice: on its units, and on the tokens that they span."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch

from indexer_lab.errors import InputError
from indexer_lab.scoring import OF_TOKENS, Question, score_record
from indexer_lab.selectors import selector
from indexer_lab.store.capture import SampleInfo
from indexer_lab.targets import default_target, probabilities, target
from indexer_lab.unit_level import has_units, unit_record, unit_size
from indexer_probes import units
from indexer_probes.records import (
    Entries,
    IndexerRecord,
    LayerRecord,
    Layout,
    MaskRule,
    PlainKeys,
)

LENGTH, SIZE = 22, 4
SAMPLE = SampleInfo("s", "t", LENGTH)


def made(layout: Layout, places: int = 3, entries: bool = False) -> LayerRecord:
    """Four query heads on two key heads, every query of 22 tokens, units of 4."""
    torch.manual_seed(3)
    heads = 2 if layout.per_head else 3
    spans = units.tiled(LENGTH, SIZE, whole=layout.whole)
    if entries:
        spans = units.overlapping(len(spans), SIZE)
    blank = IndexerRecord(
        queries=torch.randn(heads, LENGTH, 8),
        keys=torch.randn(LENGTH if layout.pooled else len(spans), 8),
        weights=torch.ones(LENGTH, heads) if layout.per_head else torch.randn(LENGTH, heads),
        scale=0.4,
        native=torch.full((1, LENGTH, places), -1),
        activation="none" if layout.pooled else "relu",
        spans=spans,
        units_of=layout,
    )
    positions = torch.arange(LENGTH)
    values, best = units.ranked(blank, slice(None), positions).topk(places, dim=-1)
    native = best.masked_fill(values == float("-inf"), -1)
    return LayerRecord(
        layer=5,
        queries=2 * torch.randn(4, LENGTH, 6),
        keys=PlainKeys(torch.randn(2, LENGTH, 6), torch.randn(2, LENGTH, 6)),
        positions=positions,
        scale=0.5,
        mask=MaskRule(window=5 if entries else None),
        indexer=replace(blank, native=native),
        entries=Entries(torch.randn(2, len(spans), 6), spans) if entries else None,
    )


POOLS = Layout(tail=True)
BLOCKS = Layout(whole=False, forced=1, per_head=True, pooled=True)
RECORDS = {
    "pools": made(POOLS),
    "blocks": made(BLOCKS),
    "entries": made(Layout(), entries=True),
}


@pytest.fixture(params=RECORDS)
def record(request: pytest.FixtureRequest) -> LayerRecord:
    return RECORDS[request.param]


def scored(record: LayerRecord, budgets: tuple[int, ...], goal: str = "head_sum") -> pd.DataFrame:
    question = Question(("native", "lightning"), budgets, (goal,))
    return score_record(record, SAMPLE, question).to_pandas()


def test_a_units_probability_is_that_of_its_tokens() -> None:
    for name in ("pools", "blocks"):
        record = RECORDS[name]
        of_units = probabilities(unit_record(record).logits(slice(None)))
        of_tokens = probabilities(record.logits(slice(None)))
        spans = record.indexer.spans.tolist()
        for row in range(LENGTH):
            pooled = torch.stack([of_tokens[:, row, a:b].sum(-1) for a, b in spans], dim=-1)
            seen = units.counts(record.indexer, record.positions)[row]
            pooled[:, seen:] = 0
            if seen:
                pooled = pooled / pooled.sum(-1, keepdim=True)
            torch.testing.assert_close(of_units[:, row], pooled)


def test_entries_are_their_own_units() -> None:
    record = RECORDS["entries"]
    assert torch.equal(unit_record(record).logits(slice(None)), record.entry_logits(slice(None)))


def test_native_units_are_those_that_lightning_ranks_first(record: LayerRecord) -> None:
    seen = unit_record(record)
    native, scores = (selector(name).fit(seen).top(3) for name in ("native", "lightning"))
    assert torch.equal(native, scores)
    assert torch.equal(native, record.indexer.native)


def always(record: LayerRecord, row: int) -> list[int]:
    """By the words of the documentation: the started unit's tokens, or the window's."""
    if record.entries is not None:
        return list(range(max(0, row - 4), row + 1))
    if not record.indexer.units_of.tail:
        return []
    return list(range((row + 1) // SIZE * SIZE, row + 1))


def spent(record: LayerRecord, native: list[int], row: int, budget: int) -> list[int]:
    """The literal rule: what is attended to in any case, then whole units while they fit."""
    kept = sorted(always(record, row), reverse=True)[:budget]
    for unit in native:
        first, end = record.indexer.spans[unit].tolist()
        more = [token for token in range(first, min(end, row + 1)) if token not in kept]
        if unit < 0 or len(kept) + len(more) > budget:
            break
        kept += more
    return kept


@pytest.mark.parametrize("budget", [1, 4, 7, 9, 12])
def test_units_spend_a_budget_of_tokens(record: LayerRecord, budget: int) -> None:
    support = selector("native").fit(record).top(budget)
    assert support.shape == (len(record.indexer.native), LENGTH, budget)
    for number, chosen in enumerate(support):
        for row in range(LENGTH):
            native = record.indexer.native[number, row].tolist()
            found = [token for token in chosen[row].tolist() if token >= 0]
            assert found == spent(record, native, row, budget)
            assert chosen[row].tolist() == found + [-1] * (budget - len(found))


def test_a_budget_for_all_units_gives_what_the_model_attends_to(record: LayerRecord) -> None:
    beside = {"pools": SIZE - 1, "blocks": 0, "entries": 5}
    name = next(name for name, each in RECORDS.items() if each is record)
    most = 3 * SIZE + beside[name]
    support = selector("native").fit(record).top(most)
    if name == "entries":  # overlapping entries hold older tokens too, and may not all fit
        return
    marks = torch.zeros(len(support), LENGTH, LENGTH + 1, dtype=torch.bool)
    marks.scatter_(-1, support.masked_fill(support < 0, LENGTH), True)
    assert torch.equal(marks[..., :LENGTH], units.attended(record, slice(None)))
    with pytest.raises(InputError, match=f"budget {most + 1} is over the {most} tokens"):
        selector("native").fit(record).top(most + 1)


def test_both_levels_are_in_the_table(record: LayerRecord) -> None:
    table = scored(record, (8, 12), "kv_group")
    of_units, of_tokens = (table[table["level"] == level] for level in ("unit", "token"))
    assert sorted(of_units["budget"].unique()) == [2, 3]
    assert sorted(of_tokens["budget"].unique()) == [8, 12]
    assert set(of_units["selector"]) == {"exact", "random", "sink_recent", "native", "lightning"}
    seen = units.counts(record.indexer, record.positions)
    assert of_units["visible"].tolist() == seen.tolist() * 4 * 5 * 2
    assert of_units["position"].tolist() == of_tokens["position"].tolist()
    assert of_units[list(OF_TOKENS)].isna().all().all()
    assert (table["indexer_layer"] == 5).all()
    for level in (of_units, of_tokens):
        exact = level[(level["selector"] == "exact") & ~level["trivial"]]
        assert (exact["recall"] == 1).all()
        assert (level[["duplicates", "future", "out_of_range"]] == 0).all().all()


def test_recall_on_units_by_hand() -> None:
    record = RECORDS["blocks"]
    table = scored(record, (12,), "kv_group")
    row = LENGTH - 1
    got = table.query("level == 'unit' and selector == 'native' and position == @row")
    values = target("kv_group").chunk(unit_record(record), slice(row, row + 1), 3)
    for head in range(4):
        exact = set(values[head // 2, 0].topk(3).indices.tolist())
        found = exact & set(record.indexer.native[head // 2, row].tolist())
        assert got[got["head"] == head]["recall"].item() == pytest.approx(len(found) / 3)


def test_the_mass_of_blocks_is_the_mass_of_their_tokens() -> None:
    table = scored(RECORDS["blocks"], (12,))
    by_row = table[table["selector"] == "native"].set_index(["head", "position"])
    of_units, of_tokens = (by_row[by_row["level"] == level]["mass"] for level in ("unit", "token"))
    pd.testing.assert_series_equal(of_units, of_tokens, rtol=1e-5)


def test_budgets_under_a_unit_and_over_the_models_own_make_no_unit_rows() -> None:
    table = scored(RECORDS["pools"], (3, 15))
    assert table[table["level"] == "unit"]["budget"].unique().tolist() == [3]


def test_selectors_that_need_keys_leave_units_alone_and_refuse_entries() -> None:
    question = Question(("quantised",), (8,), ("head_sum",))
    table = score_record(RECORDS["pools"], SAMPLE, question).to_pandas()
    assert set(table[table["selector"] == "quantised"]["level"]) == {"token"}
    with pytest.raises(InputError, match="'quantised' ranks by the keys of tokens, and layer 5"):
        score_record(RECORDS["entries"], SAMPLE, question)


def test_a_layer_without_an_indexer_has_no_rows_of_one() -> None:
    plain = replace(RECORDS["pools"], indexer=None)
    table = scored(plain, (8,))
    assert set(table["selector"]) == {"exact", "random", "sink_recent"}
    assert (table["indexer_layer"] == -1).all()
    assert set(table["level"]) == {"token"}


def test_narrow_formats_rank_units_too(record: LayerRecord) -> None:
    for precision in ("fp8", "int8"):
        ranker = selector(f"lightning:precision={precision}").fit(unit_record(record))
        native = record.indexer.native
        same = (ranker.top(3)[..., :1] == native[..., :1]).float().mean()
        assert same > 0.8


def test_default_targets_follow_the_sets() -> None:
    assert default_target(RECORDS["pools"]) == "head_sum"
    assert default_target(RECORDS["blocks"]) == "kv_group"


def test_size_and_kind() -> None:
    for record in RECORDS.values():
        assert unit_size(record) == SIZE
        assert has_units(record)
        assert not has_units(unit_record(record))
