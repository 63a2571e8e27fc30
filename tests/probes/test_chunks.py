"""Prompts that go through a layer in chunks: the model's own outputs, selection and records, and
nothing of query x key size on the way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache, PreTrainedModel

from indexer_probes.capture import capture
from indexer_probes.errors import ProbeError
from indexer_probes.records import LatentKeys, LayerRecord
from indexer_probes.steering import steer

Build = Callable[[str], PreTrainedModel]

LENGTHS = [1, 7, 41]
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(params=[3, 8, 40])
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Query rows of a chunk: many chunks, the last one short or of one row, or only one chunk."""
    monkeypatch.setattr("indexer_probes.chunked_layers.ROWS", request.param)
    monkeypatch.setattr("indexer_probes.chunked_layers.ENGINE_ROWS", request.param)
    return int(request.param)


@pytest.fixture(params=["deepseek_v32", "deepseek_v32-below-k"])
def sparse(request: pytest.FixtureRequest, build: Build) -> PreTrainedModel:
    return build(request.param)


def taken(
    model: PreTrainedModel, tokens: Tensor, **settings: object
) -> tuple[Tensor, list[LayerRecord]]:
    records: list[LayerRecord] = []
    with torch.inference_mode(), capture(model, records.append, values=True, **settings):
        logits = model(input_ids=tokens, use_cache=False).logits
    return logits, records


def own_selections(model: PreTrainedModel, tokens: Tensor) -> list[Tensor]:
    """What each indexer returns when nobody listens: int [query, k]."""
    found: list[Tensor] = []
    hooks = [
        layer.self_attn.indexer.register_forward_hook(lambda m, a, out: found.append(out[0]))
        for layer in model.model.layers
    ]
    with torch.inference_mode():
        model(input_ids=tokens, use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("length", LENGTHS)
def test_output_and_selection_are_the_models_own(
    sparse: PreTrainedModel, tokens: Tensor, rows: int, length: int
) -> None:
    tokens = tokens[:, :length]
    with torch.inference_mode():
        truth = sparse(input_ids=tokens, use_cache=False).logits
    logits, records = taken(sparse, tokens)
    torch.testing.assert_close(logits, truth, **CLOSE)
    for record, selected in zip(records, own_selections(sparse, tokens), strict=True):
        assert record.indexer is not None
        for position, native in enumerate(record.indexer.native[0].tolist()):
            seen = {key for key in selected[position].tolist() if key <= position}
            assert {key for key in native if key >= 0} == seen
            assert native[len(seen) :] == [-1] * (len(native) - len(seen))


def test_the_record_does_not_depend_on_the_chunks(
    sparse: PreTrainedModel, tokens: Tensor, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = torch.tensor([0, 2, 3, 11, 39, 40])
    _, parts = taken(sparse, tokens, rows=lambda length: kept)
    monkeypatch.setattr("indexer_probes.chunked_layers.ROWS", 41)
    _, whole = taken(sparse, tokens, rows=lambda length: kept)
    assert len(parts) == len(whole) == 2
    for part, truth in zip(parts, whole, strict=True):
        assert [name for name, _ in part.tensors()] == [name for name, _ in truth.tensors()]
        for (name, got), (_, wanted) in zip(part.tensors(), truth.tensors(), strict=True):
            if name == "indexer.native":  # equal scores come in any order
                got, wanted = got.sort().values, wanted.sort().values
            torch.testing.assert_close(got, wanted, msg=name, **CLOSE)
        assert part.indexer is not None
        assert truth.indexer is not None
        assert (part.indexer.scale, part.scale) == (truth.indexer.scale, truth.scale)


def test_a_cache_is_filled_as_without_a_capture(
    sparse: PreTrainedModel, tokens: Tensor, rows: int
) -> None:
    def decoded(listening: bool) -> tuple[Tensor, list[LayerRecord]]:
        cache, records = DynamicCache(config=sparse.config), []
        with torch.inference_mode():
            if listening:
                with capture(sparse, records.append):
                    sparse(input_ids=tokens[:, :40], past_key_values=cache)
                    step = sparse(input_ids=tokens[:, 40:], past_key_values=cache)
            else:
                sparse(input_ids=tokens[:, :40], past_key_values=cache)
                step = sparse(input_ids=tokens[:, 40:], past_key_values=cache)
        return step.logits, records

    truth, _ = decoded(listening=False)
    logits, records = decoded(listening=True)
    torch.testing.assert_close(logits, truth, **CLOSE)
    assert [record.length for record in records] == [40, 40, 41, 41]


class Largest(TorchDispatchMode):
    """The most elements of any tensor that is made, and its shape."""

    elements = 0
    shape: tuple[int, ...] = ()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(made, Tensor) and not made.is_meta:
                size = made.untyped_storage().nbytes() // max(made.itemsize, 1)
                if size > self.elements:
                    self.elements, self.shape = size, tuple(made.shape)
        return result


def largest_of(work: Callable[[], object]) -> Largest:
    with torch.inference_mode(), Largest() as largest:
        work()
    return largest


def test_nothing_grows_with_queries_times_keys(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer_probes.chunked_layers.ROWS", 16)
    monkeypatch.setattr("indexer_probes.postponed.CHUNK_BYTES", 1 << 14)
    monkeypatch.setattr("indexer_probes.attention.CHUNK_BYTES", 1 << 14)
    model = build("deepseek_v32")
    model.config.max_position_embeddings = 4096
    tokens = torch.randint(0, 64, (1, 1500), generator=torch.Generator().manual_seed(2))
    square = tokens.shape[1] ** 2

    def listening() -> None:
        with capture(model, lambda record: None, rows=lambda n: torch.arange(n - 4, n)):
            model(input_ids=tokens, use_cache=False, logits_to_keep=1)

    plain = largest_of(lambda: model(input_ids=tokens, use_cache=False, logits_to_keep=1))
    ours = largest_of(listening)
    assert plain.elements >= square  # the guard does see such a tensor
    assert ours.elements < square / 8, ours.shape


def test_a_steering_beside_a_capture_takes_the_prompt_whole(
    build: Build, tokens: Tensor, rows: int
) -> None:
    model, records = build("deepseek_v32"), []
    with torch.inference_mode(), capture(model, records.append), steer(model, none, layers=()):
        steered = model(input_ids=tokens, use_cache=False).logits
    with torch.inference_mode(), steer(model, none, layers=()):
        alone = model(input_ids=tokens, use_cache=False).logits
    assert torch.equal(steered, alone)
    assert len(records) == 2


def none(record: LayerRecord) -> Tensor:
    raise AssertionError("no layer was selected")


def test_a_handed_over_mask_is_held_against_the_models_own(
    build: Build, tokens: Tensor, rows: int
) -> None:
    model = build("deepseek_v32")
    causal = torch.ones(1, 1, 41, 41, dtype=torch.bool).tril()
    _, records = taken(model, tokens)
    with torch.inference_mode(), capture(model, records.append):
        model(input_ids=tokens, attention_mask=causal, use_cache=False)
        with pytest.raises(ProbeError, match="differs from the model's own"):
            model(input_ids=tokens, attention_mask=causal.flip(-1), use_cache=False)
    assert torch.equal(records[0].queries, records[2].queries)


def test_forward_is_the_modules_own_again(sparse: PreTrainedModel, tokens: Tensor) -> None:
    layer = sparse.model.layers[0]
    forward = layer.forward
    layer.forward = lambda *args, **kwargs: forward(*args, **kwargs)  # as accelerate does
    mine = layer.forward
    taken(sparse, tokens)
    assert layer.forward is mine
    assert "forward" not in vars(sparse.model.layers[1])


def test_latents_are_the_models_own_in_the_cache(build: Build, tokens: Tensor, rows: int) -> None:
    """Expanded again, the record's latents give the output of every layer's attention."""
    model = build("deepseek_v32")
    outputs: list[Tensor] = []
    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_pre_hook(lambda m, args: outputs.append(args[0]))
    _, records = taken(model, tokens)
    steps = -(-41 // rows)
    for record in records:
        assert isinstance(record.keys, LatentKeys)
        logits = record.logits(slice(None))
        assert record.indexer is not None
        native = record.indexer.native[0]
        picked = torch.zeros(41, 42, dtype=torch.bool).scatter_(1, native % 42, True)[:, :-1]
        weights = logits.masked_fill(~picked, float("-inf")).softmax(-1)
        values = record.float_values
        assert values is not None
        truth = torch.cat(outputs[record.layer * steps : (record.layer + 1) * steps], dim=1)[0]
        torch.testing.assert_close((weights @ values).transpose(0, 1).flatten(1), truth, **CLOSE)
