"""The indexer's operands: taken from its own products, proved on its own scores and selection."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from indexer_probes.capture import capture
from indexer_probes.errors import ProbeError
from indexer_probes.families import FAMILIES
from indexer_probes.families.base import Family
from indexer_probes.indexer import IndexerWatch, index_record
from indexer_probes.records import LatentKeys, LayerRecord, PlainKeys

Build = Callable[[str], PreTrainedModel]
SPARSE = ["deepseek_v32", "deepseek_v32-below-k"]


def captured(model: PreTrainedModel, tokens: Tensor, **settings: object) -> list[LayerRecord]:
    records: list[LayerRecord] = []
    with capture(model, records.append, **settings):
        model(input_ids=tokens, use_cache=False)
    return records


def own_selection(model: PreTrainedModel, tokens: Tensor) -> list[Tensor]:
    """What each layer's indexer returns in the plain model: int64 [query, k]."""
    chosen: list[Tensor] = []
    hooks = [
        layer.self_attn.indexer.register_forward_hook(lambda m, a, out: chosen.append(out[0]))
        for layer in model.model.layers
    ]
    model(input_ids=tokens, use_cache=False)
    for hook in hooks:
        hook.remove()
    return [each.long() for each in chosen]


@pytest.mark.parametrize("name", SPARSE)
def test_the_recomputed_scores_give_the_native_selection(
    build: Build, tokens: Tensor, name: str, chunking: str
) -> None:
    for record in captured(build(name), tokens):
        assert record.indexer is not None
        scores = record.indexer.scores(slice(None))
        for row, position in enumerate(record.positions.tolist()):
            picked = record.indexer.native[0, row]
            picked = picked[picked >= 0]
            k = record.indexer.native.shape[-1]
            assert len(picked.unique()) == len(picked) == min(k, position + 1)
            left = torch.ones(position + 1, dtype=torch.bool).index_fill(0, picked, False)
            if left.any():
                assert scores[row, picked].min() >= scores[row, : position + 1][left].max() - 1e-5


@pytest.mark.parametrize("name", SPARSE)
def test_native_is_the_models_selection_with_hidden_keys_last(
    build: Build, tokens: Tensor, name: str, chunking: str
) -> None:
    model = build(name)
    truth = own_selection(model, tokens)
    for record in captured(model, tokens):
        assert record.indexer is not None
        native = record.indexer.native[0]
        assert native.dtype == torch.int64
        for row, position in enumerate(record.positions.tolist()):
            seen = [key for key in truth[record.layer][row].tolist() if key <= position]
            pads = [-1] * (native.shape[-1] - len(seen))
            assert native[row].tolist() == seen + pads


def test_scores_answered_in_chunks_are_the_models_bit_for_bit(
    build: Build, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer_probes.postponed.CHUNK_BYTES", 1)
    indexer = build("deepseek_v32").model.layers[0].self_attn.indexer
    inputs = indexer_inputs(indexer)

    class Topks(TorchFunctionMode):
        seen: Tensor

        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is Tensor.topk:
                self.seen = args[0]
            return func(*args, **(kwargs or {}))

    with Topks() as plain:
        truth = indexer(**inputs)
    with IndexerWatch(0) as watch:
        watched = indexer(**inputs)
    assert torch.equal(watch.operands().truth(torch.arange(23)), plain.seen)
    assert torch.equal(watched, truth)


def indexer_inputs(indexer: nn.Module, rows: int = 23) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
    torch.manual_seed(3)
    angle = torch.randn(1, rows, indexer.qk_rope_head_dim)
    return {
        "hidden_states": torch.randn(1, rows, indexer.hidden_size),
        "q_resid": torch.randn(1, rows, indexer.q_lora_rank),
        "position_embeddings": (angle.cos(), angle.sin()),
        "attention_mask": torch.ones(1, rows, rows, dtype=torch.bool).tril(),
        "position_ids": torch.arange(rows)[None],
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_latents_expand_to_the_plain_keys_bit_for_bit(
    build: Build, tokens: Tensor, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = FAMILIES["deepseek_v32"]
    latent, plain = family.latent, []

    def both(call, heard):  # type: ignore[no-untyped-def]
        plain.append(Family.keys(family, call, heard, True))
        return latent(call, heard)

    monkeypatch.setattr(family, "latent", both)
    records = captured(build("deepseek_v32").to(dtype), tokens, values=True)
    for record, truth in zip(records, plain, strict=True):
        assert isinstance(record.keys, LatentKeys)
        assert isinstance(truth, PlainKeys)
        assert record.keys.keys().dtype == dtype
        assert torch.equal(record.keys.keys(), truth.keys())
        assert torch.equal(record.keys.values(), truth.values())


def test_operands_are_stored_in_the_models_dtype_without_loss(build: Build, tokens: Tensor) -> None:
    for record in captured(build("deepseek_v32").bfloat16(), tokens):
        assert record.indexer is not None
        assert record.indexer.queries.dtype == record.indexer.keys.dtype == torch.bfloat16
        assert record.indexer.weights.dtype == torch.float32


def test_index_keys_are_whole_and_queries_only_the_rows_asked(build: Build, tokens: Tensor) -> None:
    kept = torch.tensor([3, 17, 40])
    everything = captured(build("deepseek_v32"), tokens)
    for whole, part in zip(
        everything, captured(build("deepseek_v32"), tokens, rows=lambda n: kept), strict=True
    ):
        assert whole.indexer is not None
        assert part.indexer is not None
        assert torch.equal(part.indexer.keys, whole.indexer.keys)
        assert torch.equal(part.indexer.queries, whole.indexer.queries[:, kept])
        assert torch.equal(part.indexer.weights, whole.indexer.weights[kept])
        assert torch.equal(part.indexer.native, whole.indexer.native[:, kept])


class Handmade(nn.Module):
    """An indexer of 6 tokens whose pieces a test can bend."""

    def __init__(self, step: Callable[[Tensor], Tensor], softmax_scale: float | None = None):
        super().__init__()
        torch.manual_seed(5)
        self.q = nn.Parameter(torch.randn(1, 6, 3, 4))
        self.k = nn.Parameter(torch.randn(1, 6, 4))
        self.w = nn.Parameter(torch.randn(1, 6, 1, 3))
        self.step = step
        if softmax_scale is not None:
            self.softmax_scale = softmax_scale

    @torch.no_grad()
    def forward(self) -> Tensor:
        scores = self.step(torch.matmul(self.q, self.k.mT.unsqueeze(1)))
        return torch.matmul(self.w, scores).squeeze(-2).topk(2).indices


def settled(indexer: Handmade) -> tuple[float, str]:
    with IndexerWatch(7) as watch:
        indexer()
    rows = torch.arange(6)
    record = index_record(watch.operands(), indexer, rows, torch.full((6,), 5), layer=7)
    return record.scale, record.activation


@pytest.mark.parametrize(
    ("step", "declared", "found"),
    [
        (lambda s: torch.relu(s * 0.3), 0.3, (0.3, "relu")),
        (lambda s: (s * 0.3).relu_(), 0.3, (0.3, "relu")),
        (lambda s: s * 0.3, 0.3, (0.3, "none")),
        (lambda s: nn.functional.relu(s) * 0.5, None, (0.5, "relu")),  # 4 ** -0.5
        (lambda s: nn.functional.relu(s), 0.3, (1.0, "relu")),
    ],
)
def test_scale_and_activation_are_found_by_proof(
    step: Callable[[Tensor], Tensor], declared: float | None, found: tuple[float, str]
) -> None:
    assert settled(Handmade(step, declared)) == found


def test_an_unknown_score_form_is_refused_with_what_was_tried() -> None:
    with pytest.raises(ProbeError, match=r"layer 7: no known form.*scale 0\.3 with relu"):
        settled(Handmade(lambda s: torch.relu(s) * 2.7, 0.3))


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (lambda s: s.softmax(-1), "softmax"),
        (lambda s: s * torch.ones(6), "mul"),
        (lambda s: torch.mul(input=s, other=2.0), "mul"),
        (lambda s: torch.matmul(torch.ones(1, 6, 3, 4), torch.ones(1, 1, 4, 6)) + s, "twice"),
        (lambda s: torch.ones(1, 6, 3, 6), "no product of head weights"),
        (lambda s: s * s.size(-1) * torch.ones(6, 1, 1).topk(1, dim=0)[0].item(), "topk twice"),
    ],
)
def test_an_indexer_of_another_shape_is_refused(
    step: Callable[[Tensor], Tensor], reason: str
) -> None:
    with pytest.raises(ProbeError, match=f"layer 7: the indexer cannot be read: .*{reason}"):
        settled(Handmade(step, 1.0))


def test_an_indexer_without_products_is_refused() -> None:
    with IndexerWatch(2) as watch:
        torch.ones(1, 4, 4).topk(2)
    with pytest.raises(ProbeError, match=r"layer 2.*no product of queries and keys"):
        watch.operands()
