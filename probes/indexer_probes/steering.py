"""Make a model attend only to what a selection names, and back exactly as it was.

>>> with steer(model, lambda record: exact.fit(record).top(256)):
...     model(input_ids=ids, use_cache=False)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from indexer_probes.attention import attend, attend_selected
from indexer_probes.capture import wanted_layers
from indexer_probes.errors import ProbeError
from indexer_probes.families import AttentionCall, Family
from indexer_probes.indexer import Chosen
from indexer_probes.records import LayerRecord, MaskRule, PlainKeys
from indexer_probes.selection import indexer_of
from indexer_probes.session import Session, session_of

Choose = Callable[[LayerRecord], Tensor]
"""Maps a live record to the support: int64 [set, query, k] over its keys, -1 pads."""

Watch = Callable[[LayerRecord, Tensor | None], None]
"""Sees a live record with the support that its queries attend to; None: to all they can see."""

Attend = Callable[[AttentionCall, MaskRule, Tensor], Tensor]
"""Maps a call, its mask rule and its support to the output [1, query, head, value_dim]."""


class Steering:
    """One open steering: which layers it selects in, and from which position on."""

    batches = True

    def __init__(
        self,
        choose: Sequence[Choose],
        session: Session,
        selected: tuple[int, ...],
        first: int,
        watch: Sequence[Watch],
        attend: Sequence[Attend],
    ):
        self.layers = tuple(sorted(session.layers.values()))  # the others are made dense
        self._choose = choose
        self._watch = watch
        self._attend = attend
        self._family: Family = session.family
        self._selected = selected
        self._first = first

    def take(
        self, call: AttentionCall, layer: int, heard: dict[str, Tensor], operands: Chosen | None
    ) -> Tensor:
        """The layer's attention output, steered where it is to be."""
        if call.entries:
            raise ProbeError(
                f"layer {layer} attends to compressed entries in place of tokens, so a selection "
                "of tokens cannot steer it; capture and score it instead"
            )
        rule = self._family.mask(call.attention)
        start = max(0, self._first - call.first)
        watch = self._watch[call.sequence] if self._watch else None
        if layer not in self._selected or start >= call.rows:
            if watch is not None:
                with torch.no_grad():
                    watch(self._record(call, layer, None, 0), None)
            return attend(call.dense, rule)
        with torch.no_grad():
            record = self._record(call, layer, operands, start)
            support = self._choose[call.sequence](record)
            _check(support, record)
            if watch is not None:
                watch(record, support)
            if self._attend:
                return self._attend[call.sequence](call, rule, support)
        return attend_selected(call, rule, support, start)

    def _record(
        self, call: AttentionCall, layer: int, operands: Chosen | None, start: int
    ) -> LayerRecord:
        """The live record of the steered rows; its tensors are the model's own, not copies."""
        rows = torch.arange(start, call.rows, device=call.queries.device)
        positions = rows + call.first
        return LayerRecord(
            layer=layer,
            queries=call.queries[0].detach()[:, start:],
            keys=PlainKeys(call.keys[0].detach(), call.values[0].detach()),
            positions=positions,
            scale=float(call.scale),
            mask=self._family.mask(call.attention),
            indexer=indexer_of(self._family, call, operands, rows, positions, layer),
        )


@contextmanager
def steer(
    model: nn.Module,
    choose: Choose | Sequence[Choose],
    layers: Iterable[int] | None = None,
    first: int = 0,
    watch: Sequence[Watch] = (),
    attend: Sequence[Attend] = (),
) -> Iterator[Steering]:
    """While the body runs, the model's attention sees only what `choose` picks.

    choose: called once for each selected layer and forward, with the record of the queries that it
            chooses for: a whole prefill's, or a decode step's one query against the whole cache.
            One a sequence for decode steps of a batch, which is padded on the left.
    layers: where to select; None for all. Every other layer is dense, a native indexer switched
            off: `layers=()` is the dense model.
    first:  queries before this position are dense.
    watch:  none, or one a sequence: sees every layer's record and support, those of dense layers
            with None and every query; dense queries before `first` in a selected layer are not
            shown.
    attend: none, or one a sequence: attends in the selected layers in the place of a softmax over
            the support. Every query of a forward is its own, so `first` must be 0.
    Works behind a DynamicCache and beside `capture`. On leaving, the model is as it was.
    Raises ProbeError as `capture` does, and for a support that cannot belong to the record.
    """
    if model.training:
        raise ProbeError("the model is in training mode; call model.eval() before steering")
    if attend and first:
        raise ProbeError(f"first = {first} with an own attention, which must attend every query")
    session = session_of(model)
    named = None if layers is None else tuple(layers)
    selected = () if named == () else wanted_layers(named, session)
    choosers = [choose] if callable(choose) else choose
    steering = Steering(choosers, session, selected, first, watch, attend)
    session.join(steering)
    try:
        yield steering
    finally:
        session.leave(steering)


def _check(support: Tensor, record: LayerRecord) -> None:
    """Raises ProbeError for a support of the wrong shape or with positions that are no keys."""
    shape = tuple(support.shape)
    fits = support.ndim == 3 and shape[1] == record.rows and record.heads % max(shape[0], 1) == 0
    if support.dtype != torch.int64 or not fits or not shape[0]:
        raise ProbeError(
            f"layer {record.layer}: a support {shape} of {support.dtype} cannot serve "
            f"{record.heads} heads and {record.rows} queries; expected int64 [set, query, k]"
        )
    if support.numel() and int(support.max()) >= record.length:
        raise ProbeError(
            f"layer {record.layer}: the support names key {int(support.max())} of {record.length}"
        )
