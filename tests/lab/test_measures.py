"""Every measure against cases worked out by hand."""

import math

import pytest
import torch

from indexer_lab.measures import FACTS, MEASURES, Answer, Block, Ground
from indexer_lab.targets import TARGETS, target
from indexer_probes.records import LayerRecord, MaskRule, PlainKeys

LN = math.log


def record_with(logits, values=None, positions=None, window=None, sinks=None):
    """A one-or-more-head record whose logits are exactly these [head, row, key] numbers.

    Queries are one-hot rows, keys the transposed logits: q.k picks the number out.
    """
    logits = torch.tensor(logits, dtype=torch.float32)
    heads, rows, keys = logits.shape
    positions = torch.tensor(positions or [keys - 1] * rows)
    queries = torch.eye(rows).expand(heads, rows, rows)
    stored = logits.transpose(1, 2).contiguous()
    held = None if values is None else torch.tensor(values, dtype=torch.float32)
    sink = None if sinks is None else torch.tensor(sinks)
    return LayerRecord(0, queries, PlainKeys(stored, held), positions, 1.0, MaskRule(window, sink))


def measured(record, support, budget, name="per_head", scores=None):
    """Every measure, [head, row] each, for one support [set, row, budget]."""
    block = Block(record, slice(0, record.rows))
    answer = Answer(Ground(block, target(name), budget), torch.tensor(support), scores, budget)
    return {key: measure(answer) for key, measure in MEASURES.items()}


# Five keys with p = 1/2, 1/4, 1/8, 1/16, 1/16.
P = [LN(1 / 2), LN(1 / 4), LN(1 / 8), LN(1 / 16), LN(1 / 16)]


def test_a_half_right_support():
    found = measured(record_with([[P]]), [[[0, 2]]], 2)
    assert found["recall"].item() == pytest.approx(1 / 2)
    assert found["jaccard"].item() == pytest.approx(1 / 3)
    assert found["mass"].item() == pytest.approx(5 / 8)
    assert found["mass_ratio"].item() == pytest.approx((5 / 8) / (3 / 4))
    assert found["kl"].item() == pytest.approx(-LN(5 / 8))
    assert found["top1"].item() == 1
    assert found["boundary_gap"].item() == pytest.approx(LN(1 / 4) - LN(1 / 8))


def test_ties_at_the_boundary_are_interchangeable():
    tied = record_with([[[3.0, 1.0, 1.0, 1.0]]])
    assert measured(tied, [[[0, 3]]], 2)["recall"].item() == 1
    assert measured(tied, [[[0, 1]]], 2)["recall"].item() == 1


def test_boundary_ties_count_only_up_to_the_places_left():
    tied = record_with([[[3.0, 1.0, 1.0, 1.0]]])
    found = measured(tied, [[[1, 2]]], 2)  # misses the best key: one tie fills the one place left
    assert found["recall"].item() == pytest.approx(1 / 2)
    assert found["top1"].item() == 0


def test_all_equal_logits_make_every_support_exact():
    flat = record_with([[[0.0] * 6]])
    found = measured(flat, [[[5, 1, 3]]], 3)
    assert found["recall"].item() == 1
    assert found["mass"].item() == pytest.approx(1 / 2)
    assert found["mass_ratio"].item() == pytest.approx(1)
    assert found["boundary_gap"].item() == 0
    assert found["jaccard"].item() == 1


def test_denominator_is_the_visible_keys_when_the_budget_exceeds_them():
    early = record_with([[P]], positions=[2])  # sees three of five keys
    found = measured(early, [[[2, 0, -1, -1]]], 4)
    assert found["recall"].item() == pytest.approx(2 / 3)
    assert found["missing"].item() == 1  # two pads, one of them explained by the three visible keys
    assert math.isnan(found["boundary_gap"].item())


def test_duplicates_future_and_nonsense_count_nothing_and_are_counted():
    early = record_with([[P]], positions=[3])
    found = measured(early, [[[1, 1, 4, 99, -7]]], 5)
    assert found["recall"].item() == pytest.approx(1 / 4)
    assert found["duplicates"].item() == 1
    assert found["future"].item() == 1
    assert found["out_of_range"].item() == 2
    assert found["missing"].item() == 0
    assert found["mass"].item() == pytest.approx((1 / 4) / (15 / 16))


def test_a_window_hides_what_lies_before_it():
    windowed = record_with([[[9.0, 1.0, 2.0, 3.0]]], window=2)
    found = measured(windowed, [[[3, 0]]], 2)
    assert found["recall"].item() == pytest.approx(1 / 2)
    assert found["future"].item() == 1


def test_an_empty_support_has_no_mass():
    found = measured(record_with([[P]]), [[[-1, -1]]], 2)
    assert found["recall"].item() == 0
    assert found["mass"].item() == 0
    assert found["kl"].item() == math.inf
    assert found["missing"].item() == 2


def test_output_error_and_its_bound():
    # p = 1/2, 1/4, 1/4 and one-hot values: o = (1/2, 1/4, 1/4), o_S = (2/3, 1/3, 0).
    logits = [[[LN(1 / 2), LN(1 / 4), LN(1 / 4)]]]
    record = record_with(logits, values=[[[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]])
    found = measured(record, [[[0, 1]]], 2)
    length = math.sqrt(1 / 4 + 1 / 16 + 1 / 16)
    error = math.sqrt((1 / 6) ** 2 + (1 / 12) ** 2 + (1 / 4) ** 2)
    assert found["output_error"].item() == pytest.approx(error / length)
    assert found["output_bound"].item() == pytest.approx(2 * (1 / 4) * 1 / length)


def test_output_error_of_nothing_is_the_whole_output():
    record = record_with([[P]], values=[[[1.0], [2.0], [3.0], [4.0], [5.0]]])
    assert measured(record, [[[-1]]], 1)["output_error"].item() == pytest.approx(1)


def test_attention_sinks_take_a_larger_share_when_keys_leave():
    # exp(logit) = 2 for both keys, exp(sink) = 4: p = 1/4, 1/4, sink 1/2; alone, key 0 gets 1/3.
    record = record_with([[[LN(2), LN(2)]]], values=[[[1.0, 0], [0, 1.0]]], sinks=[LN(4)])
    found = measured(record, [[[0]]], 1)
    error = math.sqrt((1 / 3 - 1 / 4) ** 2 + (1 / 4) ** 2) / math.sqrt(2 / 16)
    assert found["output_error"].item() == pytest.approx(error)
    assert found["mass"].item() == pytest.approx(1 / 2)  # of the mass on keys


def test_output_bound_looks_at_visible_values_only():
    record = record_with([[P]], values=[[[1.0], [1.0], [9.0], [9.0], [9.0]]], positions=[1])
    found = measured(record, [[[0]]], 1)
    assert found["output_bound"].item() == pytest.approx(2 * (1 / 3) * 1 / 1)


def test_without_values_the_output_error_is_unknown():
    found = measured(record_with([[P]]), [[[0]]], 1)
    assert math.isnan(found["output_error"].item())
    assert math.isnan(found["output_bound"].item())


def test_rank_correlation_shares_ranks_of_equal_scores():
    record = record_with([[[4.0, 3.0, 2.0, 1.0]]])
    scores = torch.tensor([[[2.0, 2.0, 0.0, 0.0]]])
    # ranks 0 1 2 3 against 0.5 0.5 2.5 2.5: covariance 4, squares 5 and 4.
    found = measured(record, [[[0, 1]]], 2, scores=scores)
    assert found["rank_correlation"].item() == pytest.approx(4 / math.sqrt(5 * 4))


def test_rank_correlation_leaves_hidden_keys_out():
    record = record_with([[[4.0, 3.0, 2.0, 1.0]]], positions=[1])
    scores = torch.tensor([[[0.0, 1.0, -math.inf, -math.inf]]])
    assert measured(record, [[[1]]], 1, scores=scores)["rank_correlation"].item() == -1


def test_ndcg_discounts_later_places():
    record = record_with([[P]])
    scores = torch.zeros(1, 1, 5)
    found = measured(record, [[[1, 0]]], 2, scores=scores)
    ideal = 1 / 2 + 1 / 4 / math.log2(3)
    assert found["ndcg"].item() == pytest.approx((1 / 4 + 1 / 2 / math.log2(3)) / ideal)
    assert math.isnan(measured(record, [[[1, 0]]], 2)["ndcg"].item())


def test_recall_by_distance():
    keys = 100
    logits = torch.zeros(keys)
    logits[[1, 10, 20, 90]] = torch.tensor([4.0, 3.0, 2.0, 1.0])  # a sink, two far, a local key
    found = measured(record_with([[logits.tolist()]]), [[[10, 90, 50, 51]]], 4)
    assert found["recall_sink"].item() == 0
    assert found["recall_far"].item() == pytest.approx(1 / 2)
    assert found["recall_local"].item() == 1
    nothing_far = measured(record_with([[P]]), [[[0]]], 1)
    assert math.isnan(nothing_far["recall_far"].item())


def test_facts_of_a_row():
    block = Block(record_with([[P]]), slice(0, 1))
    facts = {name: fact(block).item() for name, fact in FACTS.items()}
    entropy = LN(2) / 2 + LN(4) / 4 + LN(8) / 8 + LN(16) / 8
    assert facts["entropy"] == pytest.approx(entropy)
    assert facts["effective_support"] == pytest.approx(math.exp(entropy))
    assert facts["keys_90"] == 4  # 1/2 + 1/4 + 1/8 = .875, + 1/16 = .9375
    assert facts["keys_95"] == 5
    assert facts["keys_99"] == 5


def test_one_shared_set_is_held_against_every_head():
    first, second = [2.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 2.0]
    record = record_with([[first], [second]])
    found = measured(record, [[[0, 1]]], 2)
    assert found["recall"][:, 0].tolist() == [1, 0]
    assert found["mass"].shape == (2, 1)


def test_head_sum_ranks_the_mean_probability():
    record = record_with([[P], [[LN(1 / 16), LN(1 / 16), LN(1 / 8), LN(1 / 4), LN(1 / 2)]]])
    mean = target("head_sum").chunk(record, slice(0, 1), 1)
    expected = torch.tensor([9 / 32, 5 / 32, 1 / 8, 5 / 32, 9 / 32])
    torch.testing.assert_close(mean[0, 0], expected)
    assert target("head_sum").top(record, 2).tolist() == [[[0, 4]]]
    assert measured(record, [[[4, 0]]], 2, "head_sum")["recall"][:, 0].tolist() == [1, 1]


def test_head_max_and_kv_group():
    record = record_with([[P], [[LN(1 / 16), LN(1 / 16), LN(1 / 8), LN(1 / 4), LN(1 / 2)]]])
    largest = target("head_max").chunk(record, slice(0, 1), 1)[0, 0]
    torch.testing.assert_close(largest, torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 4, 1 / 2]))
    assert target("kv_group").chunk(record, slice(0, 1), 1).shape == (2, 1, 5)


def test_best_shared_takes_the_keys_in_most_heads_sets():
    heads = [[3.0, 2.0, 0.0, 0.0], [0.0, 3.0, 2.0, 0.0], [0.0, 3.0, 0.0, 2.0]]
    record = record_with([[head] for head in heads])
    support = target("best_shared").top(record, 2)
    assert support[0, 0, 0].item() == 1  # in all three top-2 sets; the others in one each
    recall = measured(record, support.tolist(), 2)["recall"]
    assert recall.sum().item() == pytest.approx(4 / 2)  # no shared pair covers more than 4 of 6


@pytest.mark.parametrize("name", TARGETS)
def test_no_shared_set_beats_the_ceiling_and_no_target_sees_the_future(name):
    torch.manual_seed(3)
    record = record_with(torch.randn(4, 6, 24).tolist(), positions=[3, 7, 11, 15, 19, 23])
    support = target(name).top(record, 5)
    assert (support <= record.positions[None, :, None]).all()
    if support.shape[0] == 1:
        ceiling = measured(record, target("best_shared").top(record, 5).tolist(), 5)["recall"]
        assert measured(record, support.tolist(), 5)["recall"].mean() <= ceiling.mean() + 1e-6
