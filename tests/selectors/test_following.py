"""Selectors along a running sequence: built once on the prompt, then only extended."""

from __future__ import annotations

import pytest
import torch

from indexer_lab.errors import InputError
from indexer_lab.selectors import selector
from indexer_lab.selectors.faiss_grow import Growing
from indexer_lab.selectors.faiss_index import Faiss
from indexer_lab.selectors.following import follower
from indexer_probes.records import LatentKeys, LayerRecord, MaskRule, PlainKeys

pytest.importorskip("faiss")

PROMPT, STEPS, KV_HEADS = 60, 5, 2
EXACT_KINDS = ("faiss:Flat", "faiss:IVF4,Flat:nprobe=4", "faiss:HNSW32:efSearch=200")


def sequence(layer=0, window=None):
    """The record of a whole sequence, a query at every key."""
    draw = torch.Generator().manual_seed(layer)
    total = PROMPT + STEPS
    queries = torch.randn(4, total, 16, generator=draw)
    keys = PlainKeys(torch.randn(KV_HEADS, total, 16, generator=draw))
    return LayerRecord(layer, queries, keys, torch.arange(total), 0.25, MaskRule(window))


def forward(whole, start, stop):
    """What one forward over positions start to stop - 1 shows."""
    keys = PlainKeys(whole.keys.plain_keys[:, :stop])
    rows = slice(start, stop)
    return LayerRecord(
        whole.layer, whole.queries[:, rows], keys, whole.positions[rows], whole.scale, whole.mask
    )


def steps(one, whole, budget=7):
    """Decode steps after the prompt but its last token."""
    return [
        one.fit(forward(whole, at, at + 1)).top(budget) for at in range(PROMPT - 1, PROMPT + STEPS)
    ]


@pytest.fixture
def counted(monkeypatch):
    """How often an index was trained, and how many keys were added in how many calls."""
    counts = {"trained": 0, "added": 0, "adds": 0}
    train, add = Faiss._trained, Growing.add

    def counting_train(self, keys):
        counts["trained"] += 1
        return train(self, keys)

    def counting_add(self, keys, stop):
        counts["adds"] += stop > self.held
        counts["added"] += max(0, stop - self.held)
        add(self, keys, stop)

    monkeypatch.setattr(Faiss, "_trained", counting_train)
    monkeypatch.setattr(Growing, "add", counting_add)
    return counts


def test_an_index_is_trained_once_a_head_and_extended_by_each_token(counted):
    one = follower(selector("faiss:IVF4,Flat"))
    for layer in (0, 1):
        steps(one, sequence(layer))
    assert counted["trained"] == 2 * KV_HEADS
    assert counted["added"] == 2 * KV_HEADS * (PROMPT + STEPS)  # each key exactly once
    assert counted["adds"] == 2 * KV_HEADS * (1 + 1 + STEPS)  # the prompt, then token by token


def test_other_continuations_share_the_prompts_index(counted):
    one, whole = follower(selector("faiss:Flat")), sequence()
    first = steps(one, whole)
    trained, added = counted["trained"], counted["added"]
    again = steps(one.again(), whole)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert counted["trained"] == trained == KV_HEADS
    assert counted["added"] - added == KV_HEADS * (STEPS + 1)  # the prompt's keys are not added


@pytest.mark.parametrize("spelled", EXACT_KINDS)
@pytest.mark.parametrize("window", [None, 20])
def test_exact_kinds_answer_as_a_fit_on_each_step_would(spelled, window):
    made, whole = selector(spelled), sequence(window=window)
    for at, support in zip(
        range(PROMPT - 1, PROMPT + STEPS), steps(follower(made), whole), strict=True
    ):
        fitted = made.fit(forward(whole, at, at + 1)).top(7)
        assert torch.equal(support, fitted)


def test_one_forward_of_many_queries_answers_as_its_steps_do():
    made, whole = selector("faiss:IVF4,PQ4x4:nprobe=2"), sequence()
    single = torch.cat(steps(follower(made), whole), dim=1)
    at_once = follower(made).fit(forward(whole, PROMPT - 1, PROMPT + STEPS)).top(7)
    assert torch.equal(single, at_once)


def test_a_prefill_of_queries_is_followed_by_steps():
    made, whole = selector("faiss:Flat"), sequence()
    one = follower(made)
    prefill = one.fit(forward(whole, 0, PROMPT - 1)).top(7)
    assert torch.equal(prefill, made.fit(forward(whole, 0, PROMPT - 1)).top(7))
    assert torch.equal(steps(one, whole)[-1], made.fit(whole).top(7)[:, -1:])


def test_what_keeps_nothing_fits_each_step():
    made, whole = selector("exact"), sequence()
    assert torch.equal(steps(follower(made), whole)[-1], made.fit(whole).top(7)[:, -1:])


def test_an_index_that_moved_on_is_not_asked_again():
    one, whole = follower(selector("faiss:Flat")), sequence()
    ranker = one.fit(forward(whole, PROMPT - 1, PROMPT))
    ranker.top(3)
    with pytest.raises(InputError, match="budget 4 after 3"):
        ranker.top(4)
    with pytest.raises(InputError, match="cannot go back to position 59"):
        one.fit(forward(whole, PROMPT - 1, PROMPT))


CONTENT = (
    *("quest:page=8", "block_mean:block=8", "hierarchical:block=8", "sparq:channels=4"),
    *("loki:rank=4", "double_sparsity:channels=4", "double_sparsity:channels=4,by=k"),
)


@pytest.mark.parametrize("spelled", CONTENT)
@pytest.mark.parametrize("window", [None, 20])
def test_many_queries_in_one_forward_pick_what_they_pick_step_by_step(spelled, window):
    made, whole = selector(spelled), sequence(window=window)
    one = follower(made)
    single = torch.cat(steps(one, whole), dim=1)
    many = forward(whole, PROMPT - 1, PROMPT + STEPS)
    assert torch.equal(follower(made).fit(many).top(7), single)
    assert torch.equal(one.again().fit(many).top(7), single)


@pytest.mark.parametrize("spelled", ["loki:rank=4", "double_sparsity:channels=4"])
def test_a_prompt_is_calibrated_on_once_and_without_what_follows(spelled, monkeypatch):
    made, whole = selector(spelled), sequence()
    seen = []
    calibrate = type(made).calibrate
    monkeypatch.setattr(
        type(made),
        "calibrate",
        lambda self, record: seen.append((record.rows, record.length)) or calibrate(self, record),
    )
    one = follower(made)
    for each in (one, one.again()):
        steps(each, whole)
    follower(made).fit(forward(whole, PROMPT - 1, PROMPT + STEPS))
    follower(made).fit(forward(whole, 0, PROMPT))
    assert seen == [(1, PROMPT), (1, PROMPT), (PROMPT, PROMPT)]


def test_latent_keys_are_calibrated_on_the_prompts():
    draw = torch.Generator().manual_seed(1)
    latent = torch.randn(PROMPT + STEPS, 6, generator=draw)
    rope = torch.randn(PROMPT + STEPS, 4, generator=draw)
    keys = LatentKeys(latent, rope, torch.randn(4, 12, 6, generator=draw))
    queries = torch.randn(4, STEPS, 16, generator=draw)
    positions = torch.arange(PROMPT, PROMPT + STEPS)
    record = LayerRecord(0, queries, keys, positions, 0.25)
    prompt = LatentKeys(latent[: PROMPT + 1], rope[: PROMPT + 1], keys.up_keys)
    made = selector("loki:rank=4")
    basis = made.calibrate(LayerRecord(0, queries[:, :1], prompt, positions[:1], 0.25))
    expected = made.fitted(record, basis).top(7)
    assert torch.equal(follower(made).fit(record).top(7), expected)
    assert not torch.equal(made.fit(record).top(7), expected)
