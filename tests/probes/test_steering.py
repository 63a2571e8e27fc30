"""A steered model attends to what was picked, and to nothing else."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from indexer_kernels.topk import topk
from indexer_probes.capture import capture
from indexer_probes.errors import ProbeError
from indexer_probes.steering import steer


def every_key(record):
    order = topk(record.logits(slice(None)), record.length)[1]
    return order


def exact(budget):
    return lambda record: topk(record.logits(slice(None)), budget)[1]


def run(model, tokens):
    return model(input_ids=tokens, use_cache=False).logits[0]


@pytest.mark.parametrize("first", [0, 17])
def test_every_key_is_the_dense_model_to_the_bit(model, tokens, first, chunking):
    with steer(model, every_key, layers=()):
        dense = run(model, tokens)
    with steer(model, every_key, first=first):
        assert torch.equal(run(model, tokens), dense)
    native = getattr(model.config, "index_topk", tokens.shape[1])
    if native >= tokens.shape[1]:
        torch.testing.assert_close(run(model, tokens), dense, atol=1e-4, rtol=1e-4)


def literal_attention(module, query, key, value, mask, scaling, dropout=0.0, **extra):
    """Softmax over the 7 largest logits, written out."""
    group = query.shape[1] // key.shape[1]
    logits = query @ key.repeat_interleave(group, 1).mT * scaling
    future = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
    logits = logits.masked_fill(future, -torch.inf)
    least = logits.topk(7, dim=-1).values[..., -1:]
    weights = logits.masked_fill(logits < least, -torch.inf).softmax(-1)
    return (weights @ value.repeat_interleave(group, 1)).transpose(1, 2), weights


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_exact_equals_attention_with_a_literal_top_k_mask(build, tokens, name, chunking):
    model = build(name)
    with steer(model, exact(7)):
        steered = run(model, tokens)
    ALL_ATTENTION_FUNCTIONS.register("literal", literal_attention)
    try:
        model.config._attn_implementation = "literal"
        torch.testing.assert_close(steered, run(model, tokens), atol=1e-4, rtol=1e-4)
    finally:
        type(ALL_ATTENTION_FUNCTIONS)._global_mapping.pop("literal")


def test_the_native_selection_is_the_model_itself(build, tokens):
    model = build("deepseek_v32")
    with steer(model, lambda record: record.indexer.native):
        steered = run(model, tokens)
    torch.testing.assert_close(steered, run(model, tokens), atol=1e-4, rtol=1e-4)


def test_a_decode_step_sees_what_a_whole_pass_sees(model, tokens):
    with steer(model, exact(5), first=20):
        whole = run(model, tokens)
        indexed = hasattr(model.config, "index_topk")
        cache = DynamicCache(config=model.config) if indexed else DynamicCache()
        parts = [model(input_ids=tokens[:, :20], past_key_values=cache).logits[0]]
        for at in range(20, tokens.shape[1]):
            step = model(input_ids=tokens[:, at : at + 1], past_key_values=cache)
            parts.append(step.logits[0])
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-4, rtol=1e-4)


def test_a_layer_that_is_not_selected_stays_dense(build, tokens):
    model = build("llama")
    outputs, chosen = {}, []

    def listen(layer):
        def keep(module, args, output):
            outputs.setdefault(layer, []).append(output[0].clone())

        return model.model.layers[layer].self_attn.register_forward_hook(keep)

    def choose(record):
        chosen.append(record.layer)
        return exact(4)(record)

    hooks = [listen(layer) for layer in (0, 1)]
    run(model, tokens)
    with steer(model, choose, layers=[1]):
        run(model, tokens)
    for hook in hooks:
        hook.remove()
    assert chosen == [1]
    assert torch.allclose(outputs[0][0], outputs[0][1], atol=1e-6)
    assert not torch.allclose(outputs[1][0], outputs[1][1], atol=1e-3)


def test_queries_before_the_first_are_dense(build, tokens):
    model = build("llama")
    dense = run(model, tokens)
    with steer(model, exact(3), first=30):
        steered = run(model, tokens)
    torch.testing.assert_close(steered[:30], dense[:30], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(steered[30:], dense[30:], atol=1e-3)


def test_a_query_without_any_key_attends_to_nothing(model, tokens):
    with steer(model, lambda record: torch.full((1, record.rows, 3), -1)):
        assert run(model, tokens).isfinite().all()


def test_a_capture_beside_it_changes_nothing(build, tokens):
    model, records = build("llama"), []
    with steer(model, exact(6)):
        alone = run(model, tokens)
        with capture(model, records.append):
            assert torch.equal(run(model, tokens), alone)
    assert len(records) == 2
    assert model.config._attn_implementation != "indexer_probes"


def test_what_cannot_be_is_refused_and_leaves_no_trace(build, tokens):
    model = build("llama")
    wrong = {
        "cannot serve 4 heads": lambda record: torch.zeros(3, record.rows, 2, dtype=torch.int64),
        "names key 90 of 41": lambda record: torch.full((1, record.rows, 2), 90),
    }
    for said, choose in wrong.items():
        with pytest.raises(ProbeError, match=said), steer(model, choose):
            run(model, tokens)
    twice = pytest.raises(ProbeError, match="two steerings")
    with twice, steer(model, exact(3)), steer(model, exact(4)):
        run(model, tokens)
    with (
        pytest.raises(ProbeError, match="layer 9 is not in the model"),
        steer(model, exact(3), [9]),
    ):
        pass
    with pytest.raises(ProbeError, match="batch of 2"), steer(model, exact(3)):
        run(model, tokens.repeat(2, 1))
    assert model.config._attn_implementation != "indexer_probes"
