"""Exact match, its interval, and bits per byte."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from indexer_lab.errors import InputError
from indexer_lab.tasks import matches, prompts
from indexer_lab.training.dsa import masks, require_indexers
from indexer_lab.training.evaluation import (
    Share,
    bits_per_byte,
    dense,
    exact_match,
    solves,
    sparse,
)
from indexer_lab.training.examples import examples
from indexer_lab.training.stages import finetune


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    # Wilson's interval with z = 1.96, worked out from its formula in another tool.
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_the_interval_of_a_share(right, count, low, high):
    assert Share(right, count).interval() == pytest.approx((low, high), abs=1e-4)


def greedy(model, tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False, return_tensors="pt")
    written = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
    return tokenizer.decode(written[0, ids.shape[1] :])


def test_one_forward_pass_says_what_greedy_decoding_does(llama, plan, tokenizer, tmp_path):
    samples = list(prompts("counting", tokenizer, 128, 12, 0, split="train", size=1))
    counting = plan(steps=60, length=128, tasks={"counting": 1.0}, text=0.0, density=0.1)
    finetune(counting, llama, tokenizer, tmp_path)
    ours = solves(llama, tokenizer, samples, masked=True)
    theirs = [matches(sample, greedy(llama, tokenizer, sample.text)) for sample in samples]
    assert ours == theirs
    assert len({len(tokenizer.encode(sample.text)) for sample in samples}) > 1  # some are filled up
    assert 0 < sum(theirs) < 12
    for batch in (1, 5):
        assert exact_match(llama, tokenizer, samples, batch=batch) == Share(sum(theirs), 12)


def test_samples_drawn_ahead_are_those_of_the_task(tokenizer):
    for workers in (0, 2):
        drawn = list(examples("multi_key", tokenizer, 256, 5, seed=3, workers=workers))
        assert drawn == list(prompts("multi_key", tokenizer, 256, 5, seed=3))


def test_sparse_mode_selects_as_many_keys_as_asked(dsa, tokenizer):
    (sample,) = prompts("multi_key", tokenizer, 96, 1, 0, size=1)
    ids = torch.tensor([tokenizer.encode(sample.text)])
    dsa.eval()
    before = [indexer.index_topk for indexer in require_indexers(dsa)]
    with torch.no_grad():
        with dense(dsa):
            full = dsa(input_ids=ids, attention_mask=masks(dsa, torch.zeros(1, 1, 1, 1)))
        with sparse(dsa, 96):
            every = dsa(input_ids=ids)
        with sparse(dsa, 4):
            few = dsa(input_ids=ids)
    torch.testing.assert_close(full.logits, every.logits, atol=1e-4, rtol=1e-4)
    assert (few.logits - every.logits).abs().max() > 1e-3
    assert [indexer.index_topk for indexer in require_indexers(dsa)] == before


def test_a_model_that_knows_nothing_pays_for_every_token(llama, tokenizer):
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter.zero_()
    value, (low, high) = bits_per_byte(llama, tokenizer, length=100, count=4)
    assert low <= value <= high
    # log2(1024) bits for each token, of two to four bytes in this tokenizer.
    assert math.log2(1024) / 4 < value < math.log2(1024) / 1.2
    assert sys.float_info.epsilon < high - low < 3


def test_no_samples_and_no_indexer_are_refused(llama, tokenizer):
    with pytest.raises(InputError, match="no samples"):
        exact_match(llama, tokenizer, [])
    with pytest.raises(InputError, match="LlamaForCausalLM has no indexer"), sparse(llama, 4):
        pass
