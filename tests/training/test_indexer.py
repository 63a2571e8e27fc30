"""The indexer in training: its loss by hand, its scores against transformers' own choice."""

from __future__ import annotations

import math

import pytest
import torch

from indexer_lab.errors import InputError
from indexer_lab.training.dsa import no_mask, replaced_indexers, require_indexers
from indexer_lab.training.indexer import (
    dense_warmup,
    index_scores,
    operands,
    own_selection,
    recall,
    watched,
)
from indexer_lab.training.losses import distillation


def ids(length=64):
    return torch.randint(1, 1000, (2, length), generator=torch.Generator().manual_seed(3))


def test_the_loss_of_a_case_worked_out_by_hand():
    scores = torch.tensor([[0.0, math.log(3.0), -torch.inf], [1.0, 1.0, 1.0]])
    target = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    # softmax of the scores: (1/4, 3/4, 0) and (1/3, 1/3, 1/3).
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert distillation(scores, target).item() == pytest.approx((first + math.log(3.0)) / 2)


def test_the_loss_is_0_where_scores_give_the_target():
    target = torch.tensor([[0.25, 0.75, 0.0]])
    scores = torch.tensor([[0.0, math.log(3.0), -torch.inf]])
    assert distillation(scores, target).item() == pytest.approx(0.0, abs=1e-6)


def test_recall_by_hand():
    scores = torch.tensor([[[4.0, 3.0, 2.0, 1.0]]])
    target = torch.tensor([[[0.4, 0.1, 0.3, 0.2]]])
    assert recall(scores, target, 2).item() == 0.5
    assert recall(scores, target, 4).item() == 1.0


def test_scores_select_what_transformers_selects(dsa):
    indexer = require_indexers(dsa)[0]
    seen = {}

    def keep(module, hidden, q_resid, rope):
        seen["ours"] = (hidden, q_resid, rope)
        return torch.zeros(1, 1, 1, dtype=torch.int32)

    dsa.eval()
    with torch.no_grad(), replaced_indexers([indexer], keep):
        dsa(input_ids=ids())
    hidden, q_resid, rope = seen["ours"]
    scores = index_scores(operands(indexer, hidden, q_resid, rope))
    later = torch.ones(64, 64, dtype=torch.bool).triu(1)
    theirs = indexer(hidden, q_resid, rope, ~later.expand(2, -1, -1), None)
    mine = scores.masked_fill(later, -torch.inf).topk(indexer.index_topk, dim=-1).indices
    rows = slice(indexer.index_topk, None)  # earlier rows see fewer keys than they select
    assert torch.equal(mine[:, rows].sort(-1).values, theirs[:, rows].long().sort(-1).values)


def test_warm_up_moves_the_indexer_alone(dsa):
    dsa.train()
    with watched(dsa, dense_warmup(16, 1)) as tally:
        dsa(input_ids=ids(), attention_mask=no_mask(dsa))
        loss, found = tally.take()
    loss.backward()
    touched = {name for name, p in dsa.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched
    assert all(".indexer." in name for name in touched)
    assert 0 < found <= 1


def test_the_sparse_stage_keeps_the_two_losses_apart(dsa):
    dsa.train()
    with watched(dsa, own_selection(16)) as tally:
        logits = dsa(input_ids=ids(), attention_mask=no_mask(dsa)).logits
        loss, _ = tally.take()
    loss.backward(retain_graph=True)
    touched = {name for name, p in dsa.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched
    assert all(".indexer." in name for name in touched)
    dsa.zero_grad()
    logits.float().logsumexp(-1).sum().backward()
    touched = {name for name, p in dsa.named_parameters() if p.grad is not None and p.grad.any()}
    assert any("kv_b_proj" in name for name in touched)
    assert not any(".indexer." in name for name in touched)


def test_training_attends_as_transformers_does_in_sparse_mode(dsa):
    dsa.eval()
    with torch.no_grad():
        own = dsa(input_ids=ids()).logits
        with watched(dsa, own_selection(dsa.config.index_topk)):
            ours = dsa(input_ids=ids(), attention_mask=no_mask(dsa)).logits
    torch.testing.assert_close(ours, own, atol=1e-3, rtol=1e-3)


def test_the_indexers_are_given_back(dsa):
    before = [indexer.forward for indexer in require_indexers(dsa)]
    with watched(dsa, own_selection(16)):
        assert [indexer.forward for indexer in require_indexers(dsa)] != before
    assert [indexer.forward for indexer in require_indexers(dsa)] == before


def test_a_model_without_indexer_is_refused(llama):
    with pytest.raises(InputError, match="LlamaForCausalLM has no Lightning Indexer"):
        require_indexers(llama)
