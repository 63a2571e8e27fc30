"""Attach to a transformers model and receive each layer's record as soon as the layer has run.

>>> with capture(model, on_record, rows=all_rows) as probe:
...     model(input_ids=ids, use_cache=False)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from indexer_probes.attention import witness
from indexer_probes.errors import ProbeError
from indexer_probes.families import AttentionCall, Family
from indexer_probes.gathering import Gathering, gathering_of
from indexer_probes.indexer import Chosen
from indexer_probes.records import LayerRecord
from indexer_probes.selection import indexer_of
from indexer_probes.session import Session, session_of

Rows = Callable[[int], Tensor]
"""Maps a number of tokens to the increasing int64 positions whose queries are kept."""


def all_rows(length: int) -> Tensor:
    """int64 [length]: every position."""
    return torch.arange(length)


class Probe:
    """One open capture: what it listens to, and how many records it has handed out.

    layers:  the layer numbers it wants, increasing.
    records: records handed to `on_record` so far.
    """

    batches = False  # a record does not say which sequence it is of

    def __init__(
        self,
        on_record: Callable[[LayerRecord], None],
        family: Family,
        layers: tuple[int, ...],
        rows: Rows,
        values: bool,
        witnesses: int,
        gathering: Gathering | None = None,
    ):
        self.layers = layers
        self.records = 0
        self._on_record = on_record
        self._family = family
        self._rows = rows
        self._values = values
        self._witnesses = witnesses
        self._gathering = gathering
        self._asked: tuple[int, Tensor] | None = None

    def take(
        self, call: AttentionCall, layer: int, heard: dict[str, Tensor], operands: Chosen | None
    ) -> None:
        """Builds the record of one call and hands it on; no kept row in this call, no record."""
        positions = self._positions(call)
        if len(positions):
            with torch.no_grad():
                record = self._record(call, layer, heard, operands, positions)
            self._hand_on(record)

    def _hand_on(self, record: LayerRecord) -> None:
        """Hands on the record of all heads, in the one process that has them."""
        with torch.no_grad():
            whole = record if self._gathering is None else self._gathering.whole(record)
        if whole is not None:
            _refuse_nan(whole)
            self._on_record(whole)
            self.records += 1

    def _record(
        self,
        call: AttentionCall,
        layer: int,
        heard: dict[str, Tensor],
        operands: Chosen | None,
        positions: Tensor,
    ) -> LayerRecord:
        rows, rule = positions - call.first, self._family.mask(call.attention)
        return LayerRecord(
            layer=layer,
            queries=call.queries[0].detach()[:, rows],
            keys=self._family.keys(call, heard, self._values),
            positions=positions,
            scale=float(call.scale),
            mask=rule,
            indexer=indexer_of(self._family, call, operands, rows, positions, layer),
            witness=witness(call, rule, positions, self._witnesses),
            entries=self._family.entries(call, self._values),
        )

    def _positions(self, call: AttentionCall) -> Tensor:
        """int64 [query]: the kept positions among this call's queries, on the model's device.

        The rule is asked once per length, so that a random one gives all layers the same rows.
        """
        if self._asked is None or self._asked[0] != call.length:
            self._asked = call.length, _checked(self._rows(call.length), call.length)
        wanted = self._asked[1]
        return wanted[wanted >= call.first].to(call.queries.device)


@contextmanager
def capture(
    model: nn.Module,
    on_record: Callable[[LayerRecord], None],
    layers: Iterable[int] | None = None,
    rows: Rows = all_rows,
    values: bool = False,
    witnesses: int = 4,
) -> Iterator[Probe]:
    """While the body runs, every forward of `model` hands its layers' records to `on_record`.

    on_record: called in the middle of the forward, in layer order, with tensors that are copies of
               their own; it should write and drop the record, for nothing else keeps it.
    layers:    layer numbers; None for all.
    rows:      which positions' queries are kept; all keys are kept whatever it says.
    values:    keep the values too.
    witnesses: rows, spread over the kept ones, for which the model's own eager weights are kept.
    Of a model under tensor parallelism process 0 alone hands on records, those of all heads.
    Behind a DynamicCache each forward gives records of its own queries against all keys so far.
    On leaving, however it comes about, the model is as it was; captures may nest.
    Raises ProbeError for a model, an input or a setting that cannot be captured.
    """
    if model.training:
        raise ProbeError("the model is in training mode; call model.eval() before capturing")
    session = session_of(model)
    wanted = wanted_layers(layers, session)
    gathering = gathering_of(model)
    probe = Probe(on_record, session.family, wanted, rows, values, witnesses, gathering)
    session.join(probe)
    try:
        yield probe
    finally:
        session.leave(probe)


def wanted_layers(layers: Iterable[int] | None, session: Session) -> tuple[int, ...]:
    """These layer numbers, increasing, each once. Raises ProbeError for one that is not there."""
    known = sorted(session.layers.values())
    wanted = known if layers is None else sorted(set(layers))
    strange = [layer for layer in wanted if layer not in known]
    if strange:
        raise ProbeError(
            f"layer {strange[0]} is not in the model; it has layers {known[0]} to {known[-1]}"
        )
    if not wanted:
        raise ProbeError("no layer asked for; leave `layers` out to capture all of them")
    return tuple(wanted)


def _checked(positions: Tensor, length: int) -> Tensor:
    """The positions on the CPU. Raises ProbeError when a row rule answers out of order or range."""
    if not isinstance(positions, Tensor) or positions.dtype != torch.int64 or positions.ndim != 1:
        raise ProbeError(f"rows({length}) must give an int64 tensor [query], not {positions!r}")
    positions = positions.detach().cpu()
    if not len(positions):
        raise ProbeError(f"rows({length}) keeps no query; name at least one position")
    if bool((positions.diff() <= 0).any()) or positions[0] < 0 or positions[-1] >= length:
        raise ProbeError(
            f"rows({length}) must give increasing positions in 0..{length - 1}; "
            f"it gave {positions[:8].tolist()}{'...' if len(positions) > 8 else ''}"
        )
    return positions


def _refuse_nan(record: LayerRecord) -> None:
    for name in ("queries", "plain_keys", "latent", "rope"):
        part = record.queries if name == "queries" else getattr(record.keys, name, None)
        if part is not None and not bool(part.isfinite().all()):
            what = "queries" if name == "queries" else "keys"
            raise ProbeError(
                f"layer {record.layer}: {what} hold NaN or infinity; check the weights"
            )
