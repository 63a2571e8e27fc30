"""A capture that streams with the kernels gives what the model's own calls give."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DeepseekV32Config, DeepseekV32ForCausalLM

from indexer_lab.engine import KernelEngine, engine_for
from indexer_lab.errors import InputError
from indexer_probes.capture import capture
from indexer_probes.errors import ProbeError

from ..interpreter import interpreting

TOKENS = 45
SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "index_n_heads": 16,  # so many that no score is zero in all of them, which would tie
    "index_head_dim": 32,
    "index_topk": 9,
    "first_k_dense_replace": 2,
    "initializer_range": 0.3,
    "max_position_embeddings": 128,
}


def tiny(dtype=torch.float32, device="cpu", **changes):
    torch.manual_seed(0)
    model = DeepseekV32ForCausalLM(DeepseekV32Config(**{**SHAPE, **changes}))
    return model.to(device, dtype).eval().requires_grad_(False)


def tokens(length=TOKENS, device="cpu"):
    return torch.randint(0, 64, (1, length), generator=torch.Generator().manual_seed(1)).to(device)


def taken(model, ids, engine, **settings):
    records = []
    kept = capture(model, records.append, values=True, engine=engine, **settings)
    with torch.inference_mode(), kept:
        logits = model(input_ids=ids, use_cache=False).logits
    return logits, records


@pytest.fixture(params=[7, 16, 64])
def chunk(request, monkeypatch):
    monkeypatch.setattr("indexer_probes.chunked_layers.ENGINE_ROWS", request.param)
    return request.param


@pytest.mark.parametrize("length", [1, 8, TOKENS])
def test_records_and_output_are_those_of_the_models_own_calls(chunk, length):
    model = tiny()
    logits, records = taken(model, tokens(length), KernelEngine("torch"))
    truth, wanted = taken(model, tokens(length), None)
    torch.testing.assert_close(logits, truth, atol=1e-4, rtol=1e-4)
    alike(records, wanted)


def alike(records, wanted):
    for record, truth in zip(records, wanted, strict=True):
        stored, right = dict(record.tensors()), dict(truth.tensors())
        assert stored.keys() == right.keys()
        for name, tensor in stored.items():
            if name == "indexer.native":  # equal scores come in another order
                assert torch.equal(tensor.sort().values, right[name].sort().values)
            else:
                torch.testing.assert_close(tensor, right[name], atol=1e-4, rtol=1e-4, msg=name)


def test_the_interpreted_kernels_give_the_same(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr("indexer_probes.chunked_layers.ENGINE_ROWS", 16)
    model = tiny(num_hidden_layers=1)
    ids = tokens(23)
    with interpreting():
        logits, records = taken(model, ids, KernelEngine("triton"))
    truth, wanted = taken(model, ids, None)
    torch.testing.assert_close(logits, truth, atol=1e-4, rtol=1e-4)
    alike(records, wanted)


class Lying(KernelEngine):
    """Swaps one key of some rows for one that was not picked."""

    def __init__(self, first):
        super().__init__("torch")
        self.first = first

    def index_topk(self, queries, keys, weights, k, **settings):
        values, picked = super().index_topk(queries, keys, weights, k, **settings)
        late = settings["positions"] >= self.first
        worst = torch.zeros_like(picked[:, 0])
        picked[late, 0] = worst[late]
        return values, picked


@pytest.mark.parametrize("first", [10, 40])
def test_a_wrong_selection_is_refused_in_the_first_chunk_and_in_a_later_one(first, monkeypatch):
    monkeypatch.setattr("indexer_probes.chunked_layers.ENGINE_ROWS", 16)
    with pytest.raises(ProbeError, match="layer 0: the streamed selection is off"):
        taken(tiny(), tokens(), Lying(first))


@pytest.mark.parametrize("change", ["future", "twice", "few"])
def test_a_selection_that_cannot_be_is_refused(change, monkeypatch):
    class Broken(KernelEngine):
        def index_topk(self, queries, keys, weights, k, **settings):
            values, picked = super().index_topk(queries, keys, weights, k, **settings)
            last = {"future": len(keys) - 1, "twice": picked[:, 0], "few": -1}[change]
            picked[:, -1] = last
            return values, picked

    monkeypatch.setattr("indexer_probes.chunked_layers.ENGINE_ROWS", 64)
    with pytest.raises(ProbeError, match=r"the streamed selection is off .* by inf"):
        taken(tiny(), tokens(), Broken("torch"))


def test_an_unknown_score_is_refused_before_anything_is_picked(monkeypatch):
    model = tiny()
    indexer = type(model.model.layers[0].self_attn.indexer)
    monkeypatch.setattr(
        indexer, "forward", lambda self, *args, **kwargs: other(self, *args, **kwargs)
    )
    with pytest.raises(ProbeError, match="layer 0: no known form of the index score"):
        taken(model, tokens(), KernelEngine("torch"))


def other(indexer, hidden_states, q_resid, position_embeddings, attention_mask, *rest, **more):
    """An indexer that weighs its heads' scores by something else than its operands say."""
    queries = indexer.wq_b(q_resid).view(1, -1, indexer.n_heads, indexer.head_dim)
    keys = indexer.wk(hidden_states)
    past = more.get("past_key_values")
    if past is not None:
        keys = past.update_indexer(keys, indexer.layer_idx)
    scores = torch.relu(torch.matmul(queries, keys.mT.unsqueeze(1)) * 0.37)
    weights = indexer.weights_proj(hidden_states)
    summed = torch.matmul(weights.unsqueeze(-2), scores).squeeze(-2)
    return summed.masked_fill(~attention_mask, float("-inf")).topk(1).indices


def test_bfloat16_operands_stay_bfloat16(monkeypatch):
    """The engine gets the narrow operands that the model widened, and the record holds them."""
    seen = []

    class Looking(KernelEngine):
        def index_topk(self, queries, keys, weights, k, **settings):
            seen.append((queries.dtype, keys.dtype, weights.dtype))
            return super().index_topk(queries, keys, weights, k, **settings)

    monkeypatch.setattr("indexer_probes.chunked_layers.ENGINE_ROWS", 16)
    _, records = taken(tiny(torch.bfloat16), tokens(), Looking("torch"))
    assert set(seen) == {(torch.bfloat16, torch.bfloat16, torch.float32)}
    assert records[0].indexer.queries.dtype == torch.bfloat16


class Questions(TorchDispatchMode):
    """Counts what makes the host wait for a device: values read, sizes that depend on values."""

    names = ("_local_scalar_dense", "nonzero", "equal", "masked_select")

    def __init__(self):
        super().__init__()
        self.asked = 0
        self.counts = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.asked += self.counts and func.overloadpacket.__name__ in self.names
        return func(*args, **(kwargs or {}))


def questions(length):
    """How many a capture of so many tokens asks, those inside the engine left out."""
    counting = Questions()

    class Silent(KernelEngine):
        def index_topk(self, *args, **settings):
            counting.counts = False
            found = super().index_topk(*args, **settings)
            counting.counts = True
            return found

    with counting:
        taken(tiny(num_hidden_layers=1), tokens(length), Silent("torch"))
    return counting.asked


def test_no_chunk_but_the_first_waits_for_the_device(monkeypatch):
    monkeypatch.setattr("indexer_probes.chunked_layers.ENGINE_ROWS", 16)
    assert 0 < questions(32) == questions(96)


def test_who_computes_is_chosen_by_device_and_backend():
    assert engine_for("auto", torch.device("cpu")) is None
    assert engine_for("torch", torch.device("cuda")) is None
    with pytest.raises(InputError, match="backend"):
        engine_for("fast", torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_the_kernels_give_what_the_model_gives(dtype, monkeypatch):
    monkeypatch.setattr("indexer_probes.chunked_layers.ENGINE_ROWS", 128)
    model, ids = tiny(dtype, "cuda", max_position_embeddings=1024), tokens(777, "cuda")
    engine = engine_for("auto", torch.device("cuda"))
    assert engine is not None
    logits, records = taken(model, ids, engine)
    truth, wanted = taken(model, ids, None)
    loose = 1e-3 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(logits, truth, atol=loose, rtol=loose)
    picked, right = records[0].indexer.native[0], wanted[0].indexer.native[0]
    same = (picked.sort().values == right.sort().values).all(-1).float().mean()
    assert same > 0.99  # rounding decides between scores that are nearly equal
