"""SpecAttn offline, from a capture of the draft, against a literal reading."""

from __future__ import annotations

import json

import pytest
import torch

from indexer_lab.errors import InputError
from indexer_lab.scoring import Question, score_record
from indexer_lab.selectors import selector
from indexer_lab.selectors.spec_map import calibrated
from indexer_lab.store.capture import SampleInfo, create
from indexer_probes.records import LayerRecord, PlainKeys

from .test_layer_map import literal_nucleus

KEYS, ROWS, GAMMA = 20, 7, 3
SAMPLES = [SampleInfo("one", "noise", KEYS), SampleInfo("two", "noise", KEYS)]


def record(layer, heads, seed, keys=KEYS, sharp=1.0):
    draw = torch.Generator().manual_seed(seed)
    return LayerRecord(
        layer=layer,
        queries=sharp * torch.randn(heads, ROWS, 6, generator=draw),
        keys=PlainKeys(torch.randn(heads, keys, 6, generator=draw)),
        positions=torch.arange(keys - ROWS, keys),
        scale=0.6,
    )


def captured(path, layers, heads, seeds=None):
    seeds = seeds or range(layers)
    capture = create(path, {"layers": [*range(layers)], "model": "made-up"}, SAMPLES)
    for number, sample in enumerate(SAMPLES):
        for layer, seed in zip(range(layers), seeds, strict=True):
            capture.save(sample, record(layer, heads, 100 * number + seed))
    return capture


@pytest.fixture(scope="module")
def draft(tmp_path_factory):
    path = tmp_path_factory.mktemp("draft")
    captured(path / "capture", 2, heads=3)
    (path / "map.json").write_text(json.dumps([0, 1, 1]))
    return path


def spelled(draft, **changes):
    settings = {"p": 0.8, "gamma": GAMMA, "layer_map": f"{draft}/map.json"} | changes
    pairs = ",".join(f"{name}={value}" for name, value in settings.items())
    return f"spec_attn:{draft}/capture:{pairs}"


def fitted(draft, layer=1, sample="two", given=None, **changes):
    given = record(layer, 4, 7) if given is None else given
    return selector(spelled(draft, **changes)).of_sample(sample).fit(given)


def literal(drafted, p):
    """Each query's keys: the union of its round's nuclei, as far as it sees them."""
    mean = drafted.logits(slice(None)).softmax(-1).mean(0)
    kept = []
    for row, position in zip(mean.tolist(), drafted.positions.tolist(), strict=True):
        seen = literal_nucleus(row[: position + 1], p, 10)
        kept.append({key for key, stays in enumerate(seen) if stays})
    unions = []
    for row, position in enumerate(drafted.positions.tolist()):
        start = row // GAMMA * GAMMA
        union = set().union(*kept[start : start + GAMMA])
        unions.append({key for key in union if key <= position})
    return unions


@pytest.mark.parametrize(("layer", "seed"), [(0, 100), (1, 101), (2, 101)])
@pytest.mark.parametrize("p", [0.5, 0.95, 1.0])
def test_a_round_sees_the_union_of_its_nuclei(draft, layer, seed, p):
    support = fitted(draft, layer=layer, p=p).top(KEYS)
    expected = literal(record(0, 3, seed), p)
    assert support.shape == (1, ROWS, KEYS)
    assert [set(row.tolist()) - {-1} for row in support[0]] == expected


def test_a_budget_keeps_the_most_drafted(draft):
    mean = record(0, 3, 101).logits(slice(None)).softmax(-1).mean(0)
    best = mean[:GAMMA].amax(0)
    picked = fitted(draft, p=1.0).top(3)[0, GAMMA - 1].tolist()
    visible = best[: KEYS - ROWS + GAMMA]
    assert picked == visible.argsort(descending=True)[:3].tolist()


def test_chunks_do_not_cut_rounds(draft, monkeypatch):
    whole = fitted(draft).top(9)
    monkeypatch.setattr("indexer_probes.records.CHUNK_BYTES", 1)
    assert torch.equal(fitted(draft).top(9), whole)


def test_a_map_is_found_where_one_is(draft, tmp_path):
    verify = captured(tmp_path / "verify", 3, heads=3, seeds=(0, 0, 1))
    from indexer_lab.store.capture import open_capture

    capture = open_capture(draft / "capture")
    assert calibrated(verify, capture) == [0, 0, 1]  # the same attention: nothing is liker
    assert calibrated(verify, capture, layers=1) == [0, 0, 0]
    by_file = fitted(draft, layer=2).top(9)
    by_capture = fitted(draft, layer=2, layer_map=tmp_path / "verify").top(9)
    assert torch.equal(by_capture, by_file)


def test_it_scores_like_any_other(draft):
    text = spelled(draft, p=0.9)
    given = record(1, 4, 7)
    question = Question((text,), (4, KEYS), ("per_head",))
    table = score_record(given, SAMPLES[1], question).to_pandas()
    own = table[(table.selector == text) & (table.budget == 4)]
    exact = table[(table.selector == "exact") & (table.budget == 4)]
    assert len(own) == 4 * ROWS
    assert (own.mass.values <= exact.mass.values + 1e-6).all()
    assert own.rank_correlation.isna().all()
    assert (own.bytes_read == 3 * 6 * 4 * KEYS).all()  # the draft's keys of one layer


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layer_map": ""}, "needs layer_map"),
        ({"layer_map": "nowhere.json"}, "no JSON file"),
        ({"sample": "three"}, "no sample 'three'"),
        ({"layer": 5}, "names no layer of .* for layer 5"),
        ({"given": record(1, 4, 7, keys=24)}, "20 tokens and 7 queries where .* 24 and 7"),
        ({"given": record(1, 4, 7).at(torch.tensor([0, 2]))}, "holds position"),
    ],
)
def test_what_does_not_fit_is_one_line(draft, changes, said):
    with pytest.raises(InputError, match=said):
        fitted(draft, **changes)


@pytest.mark.parametrize(
    ("setting", "said"),
    [("p=0", "p = 0"), ("p=1.1", "p = 1.1"), ("gamma=0", "gamma = 0"), ("exit=-1", "exit = -1")],
)
def test_settings_are_checked(setting, said):
    with pytest.raises(InputError, match=said):
        selector(f"spec_attn:somewhere:{setting}")


def test_a_record_alone_is_not_enough():
    with pytest.raises(InputError, match="another model's attention"):
        selector("spec_attn:somewhere").fit(record(0, 2, 0))
