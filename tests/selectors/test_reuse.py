"""The selection of an earlier layer: from a capture, along a sequence, and refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from indexer_lab.cli import main
from indexer_lab.errors import InputError
from indexer_lab.selectors import selector
from indexer_lab.selectors.following import follower
from indexer_lab.store.capture import SampleInfo, create, open_capture
from indexer_lab.store.scores import open_scores
from indexer_probes.records import LayerRecord, MaskRule, PlainKeys, RecordError

KEYS, ROWS = 40, 6


def layer_record(layer, window=None, heads=4):
    draw = torch.Generator().manual_seed(layer)
    queries = torch.randn(heads, ROWS, 8, generator=draw)
    keys = PlainKeys(torch.randn(2, KEYS, 8, generator=draw))
    positions = torch.arange(KEYS - ROWS, KEYS)
    return LayerRecord(layer, queries, keys, positions, 0.35, MaskRule(window))


def linked(layer, window=None):
    return replace(layer_record(layer, window), layers=layer_record)


def exact(record, budget):
    return selector("exact").fit(record).top(budget)


@pytest.mark.parametrize(
    ("spelling", "sources"),
    [
        ("reuse:layer=2", [0, 1, 2, 2, 2, 2]),
        ("reuse:2", [0, 1, 2, 2, 2, 2]),
        ("reuse:layer=0", [0, 0, 0, 0, 0, 0]),
        ("reuse:every=4", [0, 0, 0, 0, 4, 4]),
        ("reuse:every=1", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_each_layer_takes_its_sources_exact_keys(spelling, sources):
    made = selector(spelling)
    for layer, source in enumerate(sources):
        taken = made.fit(linked(layer)).top(5)
        assert torch.equal(taken, exact(layer_record(source), 5))


def test_a_target_is_that_of_the_layer_that_selects():
    taken = selector("reuse:layer=1,target=head_sum").fit(linked(3)).top(5)
    assert torch.equal(taken, selector("exact:head_sum").fit(layer_record(1)).top(5))


def test_a_layers_own_window_hides_what_was_picked_outside_it():
    taken = selector("reuse:layer=1").fit(linked(3, window=10)).top(12)
    source = exact(layer_record(1), 12)
    for head in range(4):
        for row, query in enumerate(range(KEYS - ROWS, KEYS)):
            seen = [at for at in source[head, row].tolist() if query - at < 10]
            assert taken[head, row].tolist() == seen + [-1] * (12 - len(seen))


def test_scores_are_those_of_the_layer_that_selects():
    record = linked(3)
    scores = selector("reuse:layer=1").fit(record).scores(slice(2, 4))
    assert torch.equal(scores, layer_record(1).logits(slice(2, 4)))


def test_chosen_rows_take_the_same_rows_of_the_source():
    rows = torch.tensor([1, 4])
    taken = selector("reuse:layer=1").fit(linked(3).at(rows)).top(5)
    assert torch.equal(taken, exact(layer_record(1), 5)[:, rows])


def test_a_record_that_stands_alone_has_nothing_to_reuse():
    with pytest.raises(InputError, match="layer 3 takes layer 1's selection"):
        selector("reuse:layer=1").fit(layer_record(3))
    with pytest.raises(RecordError, match="stands alone, without layer 1"):
        layer_record(3).other(1)


def test_heads_that_cannot_share_the_sets_are_refused():
    record = replace(layer_record(3, heads=6), layers=layer_record)
    with pytest.raises(InputError, match="4 sets, which the 6 heads of layer 3"):
        selector("reuse:layer=1").fit(record).top(5)


def test_along_a_sequence_the_selection_is_that_of_the_same_forward():
    one = follower(selector("reuse:every=2"))
    for _ in range(2):
        for layer in range(4):
            taken = one.fit(layer_record(layer)).top(5)
            assert torch.equal(taken, exact(layer_record(layer - layer % 2), 5))
    with pytest.raises(InputError, match="layer 2's selection, and that layer selected nothing"):
        one.again().fit(layer_record(3))
    later = layer_record(3).at(torch.tensor([2, 3]))
    with pytest.raises(InputError, match="selected nothing in this forward"):
        one.fit(later)


@pytest.fixture
def capture(tmp_path):
    """Layers 1, 2 and 5 of one sample."""
    folder = tmp_path / "capture"
    made = create(folder, {"model": "made-up", "layers": [1, 2, 5]}, [SampleInfo("a", "t", KEYS)])
    for layer in made.layers:
        made.save(made.samples[0], layer_record(layer))
    return folder


def score(*words):
    return CliRunner().invoke(main, ["score", *map(str, words)])


def test_scores_of_a_capture_reuse_the_captured_layer(capture, tmp_path):
    done = score(capture, "--selector", "reuse:layer=1", "--budget", 5, "-o", tmp_path / "scores")
    assert done.exit_code == 0, done.output
    frame = open_scores(tmp_path / "scores").frame(["selector", "layer", "mass", "bytes_read"])
    own = frame[frame["selector"].astype(str) == "reuse:layer=1"]
    probs = layer_record(5).logits(slice(None)).softmax(-1)
    expected = probs.gather(-1, exact(layer_record(1), 5)).sum(-1)
    layer = own[own["layer"] == 5]
    assert layer["mass"].tolist() == pytest.approx(expected.flatten().tolist(), rel=1e-5)
    assert (layer["bytes_read"] == 0).all()
    assert (own[own["layer"] == 1]["bytes_read"] > 0).all()


def test_a_layer_that_was_not_captured_is_refused_before_anything_is_written(capture, tmp_path):
    for spelling in ("reuse:layer=0", "reuse:every=4"):
        done = score(capture, "--selector", spelling, "--budget", 5, "-o", tmp_path / "scores")
        assert done.exit_code == 2
        assert "layer 1 takes the selection of layer 0" in done.output
        assert "captured are 1, 2, 5" in done.output
        assert not (tmp_path / "scores").exists()
    done = score(capture, "--selector", "reuse:every=4", "--layers", 5, "--budget", 5,
                 "-o", tmp_path / "scores")  # fmt: skip
    assert "layer 5 takes the selection of layer 4" in done.output


def test_a_capture_names_the_layers_it_has(capture):
    taken = open_capture(capture)
    with pytest.raises(InputError, match="layer 3 was not captured; captured are 1, 2, 5"):
        taken.record(taken.samples[0], 1).other(3)
