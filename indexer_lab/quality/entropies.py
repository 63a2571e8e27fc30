"""How concentrated the model's attention was, query by query, while it ran."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from indexer_lab.measures.concentration import concentration
from indexer_lab.positions import Positions
from indexer_lab.quality.forward import Clock
from indexer_lab.quality.trial import Trial
from indexer_lab.store.capture import SampleInfo
from indexer_lab.store.quality import ENTROPY
from indexer_probes.records import LayerRecord
from indexer_probes.steering import Watch

PROMPT = "prefill"
"""The mode of rows of the dense prompt, which every mode but prefill+decode starts from."""


@dataclass
class Entropies:
    """The entropy rows of one sample.

    prompt: its tokens; queries before the last one are the phase `prefill`, all others `decode`.
    rule:   which of the prefill's queries are kept; every later query is.
    """

    info: SampleInfo
    prompt: int
    rule: Positions
    parts: list[pa.Table] = field(default_factory=list)
    _running: list[pa.Table] = field(default_factory=list)

    def finish(self, tokens: int) -> None:
        """The running trial made that many tokens: what came after, while the sequence waited for
        its neighbours, is dropped. A query that ran again, as after a wrong draft, counts as it ran
        last."""
        latest: dict[int, int] = {}
        kept = []
        for part in reversed(self._running):
            layer, first = part["layer"][0].as_py(), pc.min(part["position"]).as_py()
            stop = latest.get(layer, self.prompt - 1 + tokens)
            kept.append(part.filter(pc.field("position") < stop))
            latest[layer] = min(stop, first)
        self.parts += [part for part in reversed(kept) if len(part)]
        self._running = []

    def watch(self, trial: Trial, clock: Clock) -> Watch:
        """Keeps the rows of a trial; what that takes is not the model's time."""

        def see(record: LayerRecord, support: Tensor | None) -> None:
            clock.aside(lambda: self._keep(record, support, trial))

        return see

    def table(self) -> pa.Table:
        return pa.concat_tables(self.parts) if self.parts else ENTROPY.empty_table()

    def _keep(self, record: LayerRecord, support: Tensor | None, trial: Trial) -> None:
        phase = "decode"
        if int(record.positions[0]) < self.prompt - 1:  # a prefill has no later query
            phase, wanted = "prefill", self.rule.rows(record.length).to(record.positions.device)
            record = record.at(wanted)
            support = None if support is None else support[:, wanted]
        found = {k: v.float().cpu().numpy() for k, v in concentration(record, support).items()}
        facts = {
            "sample": self.info.id,
            "task": self.info.task,
            "mode": trial.mode,
            "selector": trial.selector,
            "phase": phase,
            "length": self.info.length,
            "budget": trial.budget,
            "layer": record.layer,
        }
        self._running.append(_table(facts, record, found))


def _table(facts: dict[str, Any], record: LayerRecord, found: dict[str, np.ndarray]) -> pa.Table:
    heads, rows = record.heads, record.rows
    columns: dict[str, Any] = {name: [value] * (heads * rows) for name, value in facts.items()}
    columns["head"] = np.repeat(np.arange(heads, dtype=np.int32), rows)
    columns["position"] = np.tile(record.positions.cpu().numpy(), heads)
    columns["visible"] = np.tile(record.mask.count(record.positions).cpu().numpy(), heads)
    columns |= {name: values.reshape(-1) for name, values in found.items()}
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in ENTROPY]
    return pa.Table.from_arrays(arrays, schema=ENTROPY)
