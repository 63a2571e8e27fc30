"""Makes a model's decoder layers take a prompt in chunks, and its last norm too."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from indexer_probes.attention import spread
from indexer_probes.chunks import ENGINE_ROWS, ROWS, ChunkCache, Growing
from indexer_probes.errors import ProbeError
from indexer_probes.families.base import Attention
from indexer_probes.records import MaskRule
from indexer_probes.standing_in import standing_in

if TYPE_CHECKING:
    from indexer_probes.session import Session

Forward = Callable[..., Tensor]
SAMPLED = 4
"""Rows of a mask that are held against the rule: both ends and between."""


@contextmanager
def layers_in_chunks(session: Session) -> Iterator[None]:
    """Inside, every decoder layer that holds one of the session's attention modules decides at each
    call whether its input goes through it in chunks."""
    with ExitStack() as undo:
        for layer, attention in _decoder_layers(session):
            undo.enter_context(standing_in(layer, _chunked(session, attention, layer)))
        norm = getattr(getattr(session.model, "base_model", session.model), "norm", None)
        if isinstance(norm, nn.Module):
            undo.enter_context(standing_in(norm, _row_by_row(norm.forward)))
        yield


def expect_causal(mask: Tensor, rule: MaskRule, queries: int, keys: int) -> None:
    """Raises ProbeError when a mask that somebody handed over differs from the family's rule."""
    rows = spread(queries, SAMPLED).to(mask.device)
    sampled = mask.shape[2] == len(rows)  # as the mask function makes it for some families
    seen = mask[0, 0] if sampled else mask[0, 0, rows]
    seen = seen if seen.dtype == torch.bool else seen == 0
    if seen.shape[-1] != keys or not torch.equal(seen, rule.visible(rows + keys - queries, keys)):
        raise ProbeError(
            f"attention_mask {tuple(mask.shape)} differs from the model's own causal "
            "mask; pass none, or ones of shape [1, tokens]"
        )


def _decoder_layers(session: Session) -> list[tuple[nn.Module, Attention]]:
    return [
        (module, child)
        for module in session.model.modules()
        for child in module.children()
        if child in session.layers
    ]


def _chunked(session: Session, attention: Attention, layer: nn.Module) -> Forward:
    forward: Forward = layer.forward  # which may be another library's around the class's own
    signature = inspect.signature(type(layer).forward)

    def run(*args: Any, **kwargs: Any) -> Tensor:
        given = _by_name(signature, (layer, *args), kwargs)
        hidden, cache = given["hidden_states"], given.get("past_key_values")
        length, mask = hidden.shape[1], given.get("attention_mask")
        past = 0 if cache is None else cache.get_seq_length(session.layers[attention])
        chunks = len(hidden) == 1 and session.takes_chunks(length, past + length)
        if not chunks or _wants_gradients(hidden, attention):
            if mask is None:
                given["attention_mask"] = _causal(length, past, hidden.device)
            return forward(**given)
        if mask is not None:
            expect_causal(mask, session.family.mask(attention), length, length)
        return _run(session, attention, forward, given)

    return run


def _run(session: Session, attention: Attention, forward: Forward, given: dict[str, Any]) -> Tensor:
    """The layer's hidden states for a whole prompt, made in chunks."""
    hidden, cache = given["hidden_states"], given.get("past_key_values")
    length = hidden.shape[1]
    stand_in, outputs = ChunkCache(length, keeps=cache is not None), Growing(length, axis=1)
    with session.run(attention, length) as run:
        for rows in _slices(length, ROWS if run.picker is None else ENGINE_ROWS):
            part = {name: _of_rows(name, value, rows) for name, value in given.items()}
            part["attention_mask"] = _causal(rows.stop - rows.start, rows.start, hidden.device)
            part["past_key_values"] = stand_in
            output = outputs.add(forward(**part))
    if cache is not None:
        stand_in.hand_over(cache, session.layers[attention])
    return output


def _by_name(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a method by their names, those of a ** parameter among them."""
    bound = signature.bind(*args, **kwargs).arguments
    bound.pop("self")
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound.update(bound.pop(parameter.name, {}))
    return dict(bound)


def _of_rows(name: str, value: Any, rows: slice) -> Any:
    """An argument's part for these rows of the prompt."""
    if name in ("hidden_states", "position_ids"):
        return None if value is None else value[:, rows]
    if name == "position_embeddings":
        return tuple(each[:, rows] for each in value)
    return value[rows] if name == "cache_position" and value is not None else value


def _row_by_row(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A module that treats each token for itself, its working copies no larger than a chunk's."""

    def run(hidden: Tensor) -> Tensor:
        if hidden.ndim != 3 or hidden.shape[1] <= ENGINE_ROWS or hidden.requires_grad:
            return forward(hidden)
        outputs = Growing(hidden.shape[1], axis=1)
        for rows in _slices(hidden.shape[1], ENGINE_ROWS):
            output = outputs.add(forward(hidden[:, rows]))
        return output

    return run


def _slices(length: int, step: int) -> Iterator[slice]:
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def _causal(queries: int, first: int, device: torch.device) -> Tensor:
    """bool [1, 1, query, key] of queries first.. against every key up to the last of them."""
    shape = (1, 1, queries, first + queries)
    return torch.ones(shape, dtype=torch.bool, device=device).tril(first)


def _wants_gradients(hidden: Tensor, attention: nn.Module) -> bool:
    wanting = hidden.requires_grad or any(each.requires_grad for each in attention.parameters())
    return torch.is_grad_enabled() and wanting
