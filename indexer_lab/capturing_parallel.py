"""A capture by several processes of one tensor-parallel model: all compute, process 0 writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from indexer_lab.capturing import Encoded, Plan, begin, keeping, listening
from indexer_lab.errors import LabError
from indexer_lab.store.capture import Capture
from indexer_probes.spreading import input_device


class PeerStopped(LabError):
    """Another process met an error, which it tells itself."""

    exit_code = 1


def run_parallel(
    model: Any,
    encoded: list[Encoded],
    plan: Plan,
    facts: dict[str, Any],
    output: Path,
    resume: bool = False,
    force: bool = False,
    done: Callable[[str], None] = lambda sample: None,
) -> Capture:
    """Captures every sample that is not whole on disk yet; all processes call it together.

    Raises what `capturing.run` raises in process 0, and PeerStopped in the others.
    """
    import torch.distributed as dist

    mine = dist.get_rank() == 0
    try:
        taken = begin(model, encoded, plan, facts, output, resume, force) if mine else None
        told = [None if taken is None else [taken.missing(prompt.info) for prompt in encoded]]
    except LabError:
        dist.broadcast_object_list([None])
        raise
    dist.broadcast_object_list(told)
    if told[0] is None:
        raise PeerStopped("process 0 could not begin the capture")
    standing = taken or Capture(output, {"layers": plan.layers}, [])
    for prompt, absent in zip(encoded, told[0], strict=True):
        if absent:
            _sample(model, prompt, plan, standing, absent, mine)
        done(prompt.info.id)
    return standing


def _sample(
    model: Any, prompt: Encoded, plan: Plan, taken: Capture, absent: list[int], mine: bool
) -> None:
    ids = prompt.ids[None].to(input_device(model))
    try:
        with torch.inference_mode(), listening(model, plan, keeping(taken, prompt), absent):
            model(input_ids=ids, use_cache=False, logits_to_keep=1)
    except RuntimeError as error:
        if mine or "onnection closed" not in str(error):  # what gloo says when process 0 has left
            raise
        raise PeerStopped("process 0 stopped") from error
