"""One table of selectors; every property that a selection must have, over all of them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from indexer_lab.errors import InputError
from indexer_lab.selectors import SELECTORS, selector
from indexer_lab.selectors.base import Cost, ScoreRanker
from indexer_lab.selectors.faiss_index import Faiss
from indexer_lab.selectors.reuse import source
from indexer_probes.records import IndexerRecord, LatentKeys, LayerRecord, MaskRule, PlainKeys

faiss = pytest.importorskip("faiss")

KEYS, ROWS = 150, 12
SPELLINGS = {  # selectors whose default spelling is not the whole of them, or not enough
    "exact": ["exact", "exact:head_sum", "exact:best_shared"],
    "dial": [
        *("dial:precision=0.6", "dial:precision=0.6,fill=next", "dial:precision=1"),
        *("dial:precision=0.3,keep=uniform,target=kv_group", "dial:0:fill=next,keep=uniform"),
        "dial:precision=0.5,target=best_shared",
    ],
    "lightning": [
        *(f"lightning:precision={form}" for form in ("native", "fp8", "fp4", "int8")),
        "lightning:precision=fp8,hadamard=false",
    ],
    "quantised": [
        *(f"quantised:precision={form}" for form in ("fp8", "int8", "int4", "fp4", "sign")),
    ],
    "faiss": [
        *("faiss:Flat", "faiss:IVF8,Flat:nprobe=8", "faiss:IVF8,Flat:nprobe=2", "faiss:HNSW8"),
        *("faiss:LSH", "faiss:SQ8", "faiss:PQ4x4", "faiss:PCA8,Flat", "faiss:PQ4x4,RFlat"),
        *("faiss:IVF8,PQ4x4fs:nprobe=8", "faiss:PQ4x4fs", "faiss:RQ2x4", "faiss:ITQ8,LSH"),
    ],
    "retro": ["retro:page=4", "retro:page=4,window=5", "retro:window=1"],
    "quest": ["quest", "quest:page=7", "quest:page=200", "quest:page=8,local=true"],
    "block_mean": ["block_mean", "block_mean:block=8", "block_mean:block=9,local=true"],
    "hierarchical": ["hierarchical", "hierarchical:block=11,opens=1,summary=mean"],
    "sparq": ["sparq:channels=1", "sparq:channels=5"],
    "loki": ["loki:rank=1", "loki:rank=5"],
    "double_sparsity": [f"double_sparsity:channels=4,by={by}" for by in ("qk", "k", "q")],
    "reuse": [
        *("reuse:layer=9", "reuse:layer=1", "reuse:every=2,target=head_sum"),
        "reuse:layer=0,of=lightning",
    ],
    "index_heads": [
        *(f"index_heads:heads=3,by={by}" for by in ("query", "layer", "random")),
        "index_heads:heads=3,precision=fp8",
    ],
    "native": [],  # files and stored selections answer only up to what they hold: tested apart
    "recorded": [],
    "spec_attn": [],  # reads a capture of its draft
    "faulty": [  # the others break the very properties
        *("faulty:relu", "faulty:weights", "faulty:weights:form=fp8", "faulty:zero"),
        *("faulty:scale", "faulty:rope:rope_dim=16,theta=10000"),
    ],
}
BUDGETS = (1, 7, 40, KEYS + 5)
PARTIAL = (  # by design they may miss a visible key whatever the budget
    *("faiss:IVF8,Flat:nprobe=2", "faiss:HNSW8"),
    "sp_attention",
)
EVERY_STEP = ("retro",)  # they need query rows without gaps


def spellings() -> list[str]:
    return [spelling for name in SELECTORS for spelling in SPELLINGS.get(name, [name])]


def needs_indexer(spelling: str) -> bool:
    native = ("lightning", "index_heads", "faulty")
    return spelling.startswith(native) or "of=lightning" in spelling


def plain(window: int | None = None, layer: int = 2, gaps: bool = True) -> LayerRecord:
    draw = torch.Generator().manual_seed(layer + 1)
    positions = torch.linspace(3, KEYS - 1, ROWS).long()
    return LayerRecord(
        layer=layer,
        queries=torch.randn(4, ROWS, 16, generator=draw),
        keys=PlainKeys(torch.randn(2, KEYS, 16, generator=draw)),
        positions=positions if gaps else torch.arange(KEYS - ROWS, KEYS),
        scale=0.25,
        mask=MaskRule(window),
        layers=lambda layer: plain(None, layer),
    )


def latent(layer: int = 5) -> LayerRecord:
    draw = torch.Generator().manual_seed(layer - 1)
    positions = torch.linspace(3, KEYS - 1, ROWS).long()
    indexer = IndexerRecord(
        queries=torch.randn(8, ROWS, 32, generator=draw),
        keys=torch.randn(KEYS, 32, generator=draw),
        weights=torch.randn(ROWS, 8, generator=draw),
        scale=32**-0.5,
        native=torch.zeros(1, ROWS, 9, dtype=torch.int64),
    )
    hidden = ~MaskRule().visible(positions, KEYS)
    scores = indexer.scores(slice(None)).masked_fill(hidden, float("-inf"))
    values, order = scores.sort(dim=-1, descending=True, stable=True)
    native = order.masked_fill(values == float("-inf"), -1)[None, :, :9]
    return LayerRecord(
        layer=layer,
        queries=torch.randn(4, ROWS, 24, generator=draw),
        keys=LatentKeys(
            latent=torch.randn(KEYS, 12, generator=draw),
            rope=torch.randn(KEYS, 8, generator=draw),
            up_keys=torch.randn(4, 16, 12, generator=draw),
        ),
        positions=positions,
        scale=24**-0.5,
        indexer=IndexerRecord(**{**vars(indexer), "native": native}),
        layers=latent,
    )


RECORDS = {"plain": plain(), "window": plain(window=20), "latent": latent()}


STEPS = {"steps": plain(gaps=False), "window_steps": plain(window=20, gaps=False)}


def cases() -> list[tuple[str, str]]:
    return [
        (spelling, name)
        for spelling in spellings()
        for name, record in (STEPS if spelling.startswith(EVERY_STEP) else RECORDS).items()
        if record.indexer is not None or not needs_indexer(spelling)
    ]


each = pytest.mark.parametrize(("spelling", "name"), cases())


@each
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_selection_is_distinct_visible_and_padded_at_the_end(spelling, name, budget):
    record = (RECORDS | STEPS)[name]
    support = selector(spelling).fit(record).top(budget)
    assert support.dtype == torch.int64
    assert support.shape[0] in (1, record.keys.heads, record.heads)
    assert support.shape[1:] == (record.rows, budget)
    seen = record.visible(slice(None))
    for one in support:
        for row, picked in enumerate(one.tolist()):
            kept = [position for position in picked if position != -1]
            assert picked[: len(kept)] == kept, "a pad stands before a position"
            assert len(set(kept)) == len(kept)
            assert all(seen[row, position] for position in kept)


@pytest.mark.parametrize(("spelling", "name"), [it for it in cases() if it[0] not in PARTIAL])
def test_every_visible_key_is_found_when_the_budget_allows(spelling, name):
    record = (RECORDS | STEPS)[name]
    found = (selector(spelling).fit(record).top(KEYS) >= 0).sum(-1)
    assert torch.equal(found, record.mask.count(record.positions).expand_as(found))


@each
def test_two_fits_agree_whatever_budgets_came_before(spelling, name):
    record = (RECORDS | STEPS)[name]
    once = selector(spelling).fit(record)
    once.top(40)
    assert torch.equal(once.top(7), selector(spelling).fit(record).top(7))


@each
def test_no_selection_holds_more_mass_than_exact(spelling, name):
    record = (RECORDS | STEPS)[name]
    mass = torch.softmax(record.logits(slice(None)), dim=-1)

    def held(support):
        support = support.repeat_interleave(record.heads // support.shape[0], dim=0)
        return mass.gather(-1, support.clamp(min=0)).masked_fill(support < 0, 0).sum(-1)

    best = held(selector("exact").fit(record).top(7))
    assert (held(selector(spelling).fit(record).top(7)) <= best + 1e-6).all()


@each
def test_costs_are_counted(spelling, name):
    record, made = (RECORDS | STEPS)[name], selector(spelling)
    cost = made.cost(record, 7)
    free = spelling in ("random", "sink_recent", "sp_attention")
    free |= source(made, record.layer) != record.layer
    assert (cost.bytes_read == 0) == free
    assert (cost.multiply_adds == 0) == free


def test_flat_faiss_is_exact():
    for name in ("plain", "window", "latent"):
        exact = selector("exact").fit(RECORDS[name]).top(9)
        assert torch.equal(selector("faiss:Flat").fit(RECORDS[name]).top(9), exact)


def test_native_precision_gives_the_stored_selection():
    record = RECORDS["latent"]
    stored = selector("native").fit(record).top(9)
    assert torch.equal(selector("lightning").fit(record).top(9), stored)
    with pytest.raises(InputError, match="10 is over the 9"):
        selector("native").fit(record).top(10)


def test_random_does_not_depend_on_the_other_rows():
    record, rows = RECORDS["plain"], torch.tensor([2, 5, 9])
    whole = selector("random").fit(record).top(7)
    assert torch.equal(selector("random").fit(record.at(rows)).top(7), whole[:, rows])
    assert not torch.equal(selector("random:seed=1").fit(record).top(7), whole)


def test_random_is_uniform():
    rows = 2000
    record = LayerRecord(
        0,
        torch.zeros(1, rows, 1),
        PlainKeys(torch.zeros(1, 3000, 1)),
        torch.arange(1000, 1000 + rows),
        1.0,
    )
    picked = selector("random").fit(record).top(10)[0]
    share = picked / (record.positions[:, None] + 1)  # uniform on [0, 1)
    counts = torch.histc(share, bins=10, min=0, max=1)
    chi = ((counts - rows) ** 2 / rows).sum().item()
    assert chi < 28  # 0.1 % quantile for 9 degrees of freedom


def test_sinks_come_first_then_the_most_recent():
    picked = selector("sink_recent:sinks=2").fit(RECORDS["plain"]).top(4)[0]
    last = KEYS - 1
    assert picked[-1].tolist() == [0, 1, last, last - 1]
    windowed = selector("sink_recent").fit(RECORDS["window"]).top(3)[0]
    assert windowed[-1].tolist() == [last, last - 1, last - 2]


@pytest.mark.parametrize(
    ("spelling", "said"),
    [
        ("lightning", "needs indexer"),
        ("index_heads", "needs indexer"),
        ("quest:page=0", "page = 0; expected 1 or more"),
        ("block_mean:block=-2", "block = -2"),
        ("hierarchical:opens=0.5", "opens = 0.5; expected 1 or more"),
        ("hierarchical:summary=max", "expected one of bounds, mean"),
        ("sparq:channels=0", "channels = 0"),
        ("sparq:channels=17", "channels = 17, and layer 2 has 16; ask for at most 16"),
        ("double_sparsity:channels=99", "channels = 99, and layer 2 has 16"),
        ("loki:rank=17", "rank = 17, and layer 2 has 16"),
        ("loki:rank=0", "rank = 0"),
        ("reuse", "set one of layer=… and every=…"),
        ("reuse:layer=1,every=2", "set one of"),
        ("reuse:every=0", "every = 0"),
        ("reuse:layer=-1", "layer = -1"),
        ("reuse:layer=1,of=native", "expected one of exact, lightning"),
        ("reuse:layer=0,of=lightning", "needs indexer"),
        ("reuse:layer=1,target=head_mean", "head_mean.*did you mean"),
        ("native", "needs indexer"),
        ("faiss:bogus", "could not parse"),
        ("faiss:IVF4000,Flat", "training points"),
        ("faiss:Flat:nprobe=3", "nprobe"),
        ("faiss:Flat:nprobe=0", "expected >= 1"),
        ("faiss:PQ7", "multiple"),
        ("faiss:IDMap,Flat", "add_with_ids"),
        ("faiss:NSG16,Flat", "graph"),
        ("faiss:IMI2x4,Flat", "not implemented for inner"),
        ("lightning:precision=native,hadamard=true", "rounds nothing"),
        ("dial", "needs precision"),
        ("dial:precision=1.2", r"precision = 1.2; expected a share in 0..1"),
        ("dial:precision=0.5,target=head_mean", "head_mean.*did you mean"),
        ("sink_recent:sinks=-1", "sinks = -1"),
        ("recorded:missing.npy", "no such file"),
        ("recorded", "needs path"),
    ],
)
def test_what_cannot_work_is_one_line(spelling, said):
    with pytest.raises(InputError, match=said) as caught:
        selector(spelling).fit(RECORDS["plain"]).top(7)
    for trace_of_cpp in ("\n", "::", ".cpp", ".h:", "Error in"):
        assert trace_of_cpp not in str(caught.value)


def test_faiss_on_a_gpu_is_refused_where_none_is_built_in(monkeypatch):
    monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
    with pytest.raises(InputError, match="built without a GPU; install faiss-gpu"):
        selector("faiss:Flat:device=gpu").fit(RECORDS["plain"])


def test_opq_trains_on_a_sample_and_finds_most_of_the_exact_keys(monkeypatch):
    monkeypatch.setattr("indexer_lab.selectors.faiss_index.SLOW_KEYS", 400)
    draw = torch.Generator().manual_seed(7)
    keys = PlainKeys(torch.randn(1, 500, 8, generator=draw))
    record = LayerRecord(0, torch.randn(1, 4, 8, generator=draw), keys, torch.arange(496, 500), 1.0)
    exact = selector("exact").fit(record).top(50)
    found = selector("faiss:OPQ4,PQ4").fit(record).top(50)
    assert torch.equal(found, selector("faiss:OPQ4,PQ4").fit(record).top(50))
    shared = (found[..., None] == exact[..., None, :]).any(-1).float().mean()
    assert shared > 0.7  # 50 of 500 keys at random would share 0.1


def test_faiss_leaves_its_threads_as_they_were():
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        selector("faiss:IVF8,Flat").fit(RECORDS["plain"]).top(3)
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


def test_product_quantisers_train_without_the_annealing_that_no_search_reads():
    index = Faiss("PQ8")._trained(torch.randn(300, 16).numpy())
    assert not faiss.downcast_index(index).do_polysemous_training


@dataclass(frozen=True)
class Nearest:
    """A selector that this file adds: keys by their distance to a multiple of `step`."""

    step: int = 3

    def fit(self, record):
        order = -(torch.arange(record.length) % self.step).float()
        return ScoreRanker(record, lambda rows: order.repeat(1, len(record.positions[rows]), 1), 1)

    def cost(self, record, budget):
        return Cost(bytes_read=8.0, multiply_adds=1.0)


@pytest.mark.parametrize("name", RECORDS)
def test_a_selector_joins_with_one_line(monkeypatch, name):
    monkeypatch.setitem(SELECTORS, "nearest", Nearest)
    assert "nearest" in spellings()
    for budget in BUDGETS:
        test_a_selection_is_distinct_visible_and_padded_at_the_end("nearest", name, budget)
    test_every_visible_key_is_found_when_the_budget_allows("nearest", name)
    test_two_fits_agree_whatever_budgets_came_before("nearest:step=5", name)
    test_no_selection_holds_more_mass_than_exact("nearest", name)
    test_costs_are_counted("nearest", name)


def test_nan_in_keys_is_named():
    keys = torch.randn(1, 8, 4)
    keys[0, 3] = float("nan")
    record = LayerRecord(6, torch.ones(1, 1, 4), PlainKeys(keys), torch.tensor([7]), 1.0)
    narrow = ("sparq:channels=2", "loki:rank=2", "double_sparsity:channels=2")
    blocks = ("quest:page=2", "block_mean:block=2", "hierarchical:block=2")
    for spelling in ("quantised", "faiss:Flat", "exact", *narrow, *blocks):
        with pytest.raises(InputError, match=r"layer 6.*NaN"):
            selector(spelling).fit(record).top(2)
