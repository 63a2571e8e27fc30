"""Entropy of attention, over all keys and over the selected: by hand, and read literally."""

import math

import pytest
import torch

from indexer_lab.measures.concentration import FACTS, SELECTED, concentration
from indexer_probes.records import LayerRecord, MaskRule, PlainKeys


def record_of(probs):
    """A record of one head whose last query gives these probabilities to its keys."""
    logits = torch.tensor(probs).log()
    keys = PlainKeys(logits[None, :, None])
    return LayerRecord(0, torch.ones(1, 1, 1), keys, torch.tensor([len(probs) - 1]), 1.0)


def numbers(record, support=None):
    return {name: value.item() for name, value in concentration(record, support).items()}


def test_by_hand():
    found = numbers(record_of([0.5, 0.25, 0.125, 0.125]), torch.tensor([[[1, 3, -1]]]))
    assert found["entropy"] == pytest.approx(1.75 * math.log(2))
    assert found["effective_support"] == pytest.approx(2**1.75)
    assert [found["keys_90"], found["keys_95"], found["keys_99"]] == [4, 4, 4]
    assert found["mass"] == pytest.approx(0.375)
    two_thirds = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert found["selected_entropy"] == pytest.approx(two_thirds)
    assert found["selected_effective_support"] == pytest.approx(math.exp(two_thirds))
    assert found["selected_keys_90"] == 2


def test_one_key_has_no_entropy_and_supports_itself():
    found = numbers(record_of([0.96, 0.02, 0.015, 0.005]), torch.tensor([[[0]]]))
    assert [found["keys_90"], found["keys_95"], found["keys_99"]] == [1, 1, 3]
    assert found["selected_entropy"] == 0
    assert found["selected_effective_support"] == 1
    assert found["selected_keys_99"] == 1


def test_repeated_and_hidden_places_count_once_and_never():
    record = record_of([0.5, 0.25, 0.125, 0.125])
    plain = numbers(record, torch.tensor([[[0, 2]]]))
    assert numbers(record, torch.tensor([[[2, 0, 2, 9, -1, 0]]])) == plain


def test_an_empty_support_has_mass_zero_and_no_entropy():
    found = numbers(record_of([0.5, 0.5]), torch.tensor([[[-1, -1]]]))
    assert found["mass"] == 0
    assert all(math.isnan(found[name]) for name in SELECTED if name != "mass")


def test_without_a_support_only_the_facts_are_known():
    found = numbers(record_of([0.5, 0.5]))
    assert all(math.isnan(found[name]) for name in SELECTED)
    assert not any(math.isnan(found[name]) for name in FACTS)


def literal(probs, share):
    total, keys = 0.0, 0
    for p in sorted(probs, reverse=True):
        if total >= share:
            break
        total, keys = total + p, keys + 1
    return keys


@pytest.mark.parametrize("window", [None, 9])
def test_equals_a_literal_reading_whatever_the_chunks(window, monkeypatch):
    draw = torch.Generator().manual_seed(0)
    keys = PlainKeys(torch.randn(2, 40, 8, generator=draw))
    positions = torch.tensor([2, 17, 30, 39])
    queries = torch.randn(4, 4, 8, generator=draw)
    record = LayerRecord(0, queries, keys, positions, 0.7, MaskRule(window))
    support = torch.randint(-1, 40, (2, 4, 6), generator=draw)
    whole = concentration(record, support)
    monkeypatch.setattr("indexer_probes.records.CHUNK_BYTES", 1)
    chunked = concentration(record, support)
    for name in (*FACTS, *SELECTED):
        torch.testing.assert_close(whole[name], chunked[name], equal_nan=True)
    for head in range(4):
        for row, position in enumerate(positions.tolist()):
            first = 0 if window is None else max(0, position - window + 1)
            seen = range(first, position + 1)
            logits = {
                s: 0.7 * float(queries[head, row] @ keys.plain_keys[head // 2, s]) for s in seen
            }
            total = sum(math.exp(value) for value in logits.values())
            p = {s: math.exp(value) / total for s, value in logits.items()}
            chosen = {s for s in support[head // 2, row].tolist() if s in p}
            mass = sum(p[s] for s in chosen)
            for prefix, probs in (
                ("", p),
                ("selected_", {s: p[s] / mass for s in chosen} if chosen else {}),
            ):
                if not probs:
                    continue
                entropy = -sum(q * math.log(q) for q in probs.values())
                found = {name: float(whole[prefix + name][head, row]) for name in FACTS}
                assert found["entropy"] == pytest.approx(entropy, abs=1e-5)
                assert found["effective_support"] == pytest.approx(math.exp(entropy), rel=1e-4)
                assert found["keys_90"] == literal(probs.values(), 0.90)
                assert found["keys_99"] == literal(probs.values(), 0.99)
            assert float(whole["mass"][head, row]) == pytest.approx(mass, abs=1e-5)
