"""A capture of a model that fits no device: every prompt through one layer, then the next layer.

What each prompt carries from layer to layer is kept on disk beside the capture, so that a run that
was killed goes on at the layer where it stopped, and no device holds more than one prompt of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from indexer_lab.capture_size import state_bytes
from indexer_lab.capturing import Encoded, Plan, begin, keeping, listening
from indexer_lab.store.capture import Capture
from indexer_lab.store.states import States, sharing
from indexer_lab.streamed_rates import layer_line
from indexer_probes.streaming.model import StreamedModel


@dataclass
class Walker:
    """A prompt on its way. at: the layer it comes to next; last: the last one that it needs."""

    prompt: Encoded
    at: int
    last: int


def run_streamed(
    model: StreamedModel,
    encoded: list[Encoded],
    plan: Plan,
    facts: dict[str, Any],
    output: Path,
    resume: bool = False,
    force: bool = False,
    done: Callable[[str], None] = lambda layer: None,
) -> Capture:
    """Captures every part that is not whole on disk yet; `done` hears of each layer.

    The capture is the one that `capturing.run` makes of the same model. Raises what that raises,
    the hidden states' room on disk included.
    """
    states_size = [state_bytes(model.config, model.dtype.itemsize, len(p.ids)) for p in encoded]
    beside = sum(states_size) + max(states_size)  # a prompt's next state is written beside its last
    taken = begin(model, encoded, plan, facts, output, resume, force, beside)
    states = States(output / "states")
    walkers = [_walker(prompt, taken, states) for prompt in encoded if taken.missing(prompt.info)]
    if walkers:
        first, last = min(w.at for w in walkers), max(w.last for w in walkers)
        for layer in model.layers(first, last):
            if layer > first:
                done(layer_line(model.times))  # of the layer before, whose time is known now
            for walker in walkers:
                if walker.at == layer <= walker.last:
                    _step(model, walker, plan, taken, states)
        done(layer_line(model.times))
    for prompt in encoded:
        states.forget(prompt.info)
    return taken


def layers_ahead(encoded: list[Encoded], plan: Plan, output: Path | None) -> int:
    """How many layers a run still has to pass; output: None when it begins anew."""
    if output is None:
        return plan.layers[-1] + 1
    standing, states = Capture(output, {"layers": plan.layers}, []), States(output / "states")
    walkers = [
        _walker(prompt, standing, states) for prompt in encoded if standing.missing(prompt.info)
    ]
    if not walkers:
        return 0
    return 1 + max(walker.last for walker in walkers) - min(walker.at for walker in walkers)


def _walker(prompt: Encoded, taken: Capture, states: States) -> Walker:
    missing = taken.missing(prompt.info)
    return Walker(prompt, states.reached(prompt.info, missing[0]), missing[-1])


def _step(model: StreamedModel, walker: Walker, plan: Plan, taken: Capture, states: States) -> None:
    """One prompt through the layer it stands before: its record first, then its state, so that a
    state on disk means that every record before it is there."""
    prompt, layer = walker.prompt, walker.at
    before = states.load(prompt.info, layer, model.device)
    layers = [each for each in taken.missing(prompt.info) if each >= layer]
    keep = keeping(taken, prompt)
    if model.shares(layer):  # listened to even where nobody asked for it: a later layer reuses it
        wanted, layers = layer in layers, [layer]
        keep = sharing(states, prompt.info, model.reuses(layer), keep if wanted else None)
    with torch.inference_mode(), listening(model.module, plan, keep, layers):
        after = model.run(layer, prompt.ids, before)
    walker.at = layer + 1
    if layer < walker.last:
        states.save(prompt.info, walker.at, after)
