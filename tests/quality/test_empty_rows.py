"""A head whose band reaches back further than the text attends to nothing, also in the loop."""

from __future__ import annotations

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from indexer_lab.capturing import Encoded
from indexer_lab.quality.running import measure
from indexer_lab.quality.subject import Subject
from indexer_lab.quality.trial import Protocol
from indexer_lab.selectors import selector
from indexer_lab.store.capture import SampleInfo
from indexer_probes.steering import steer

from ..selectors.test_neighbours import band
from .test_quality_command import small_model

TOKENS = 22


def banded(module, query, key, value, mask, scaling, dropout=0.0, **extra):
    """Softmax over each head's band; a softmax of nothing is zero."""
    output = torch.zeros_like(query)
    for head in range(query.shape[1]):
        for row in range(TOKENS):
            seen = sorted(band(head, row, TOKENS, query.shape[1]))
            if seen:
                own = key[0, head // 2, seen] @ query[0, head, row] * scaling
                output[0, head, row] = own.softmax(0) @ value[0, head // 2, seen]
    return output.transpose(1, 2), None


def test_a_prefill_under_bands_is_its_literal_reading():
    model, ids = small_model(), torch.randint(3, 64, (1, TOKENS))
    chosen = selector("sp_attention")
    with torch.no_grad(), steer(model, lambda record: chosen.fit(record).top(TOKENS)):
        found = model(input_ids=ids, use_cache=False).logits
    ALL_ATTENTION_FUNCTIONS.register("banded", banded)
    try:
        model.config._attn_implementation = "banded"
        with torch.no_grad():
            expected = model(input_ids=ids, use_cache=False).logits
    finally:
        type(ALL_ATTENTION_FUNCTIONS)._global_mapping.pop("banded")
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", ["replay", "prefill+decode"])
def test_quality_bears_bands_longer_than_the_text(mode):
    ids = torch.randint(3, 64, (TOKENS,), generator=torch.Generator().manual_seed(1))
    one = Subject(small_model(), None, Encoded(ids, SampleInfo("s", "noise", TOKENS)))
    measure([one], Protocol((mode,), ("sp_attention:length=400",), (8,), (), 4))
    row = next(row for row in one.rows if row["selector"].startswith("sp_"))
    assert row["tokens"] == 4
    if mode == "replay":
        assert 0 < row["kl"] < 100
