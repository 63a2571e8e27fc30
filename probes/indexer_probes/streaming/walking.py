"""One decoder layer of a model on one prompt, the rest of the model standing in for itself.

The model's own forward runs, so that masks, position embeddings and whatever a family passes from
layer to layer are its own. The layers before the wanted one answer at once with what the last of
them gave when it ran; the forward ends where the wanted layer does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from indexer_probes.errors import ProbeError
from indexer_probes.streaming.skeleton import Skeleton


class _Reached(BaseException):  # no `except Exception` of a model may stop it
    def __init__(self, output: Any):
        super().__init__()
        self.output = output


def run_layer(frame: Skeleton, number: int, ids: Tensor, before: Any) -> Any:
    """What one layer gives for a prompt: a tensor, or a tuple where a family passes on more.

    ids:    int64 [1, token] on the skeleton's device. before: what the layer before it gave.
    For layer 0 the embedding must be filled too, for every layer the trunk and the layer itself.
    """
    with ExitStack() as undo:
        for layer in frame.layers[:number]:
            undo.enter_context(_standing_in(layer, lambda *_, **__: before))
        if number:
            hidden = frame.model.get_input_embeddings()
            undo.enter_context(_standing_in(hidden, _blank(hidden, frame)))
        wanted = frame.layers[number]  # its forward may already be a probe's around the model's
        undo.enter_context(_standing_in(wanted, _reaching(wanted.forward)))
        try:
            frame.model(input_ids=ids, use_cache=False, logits_to_keep=1)
        except _Reached as reached:
            return reached.output
    raise ProbeError(f"layer {number} never ran; this model cannot be streamed layer by layer")


def _reaching(forward: Callable[..., Any]) -> Callable[..., Any]:
    def reach(*args: Any, **kwargs: Any) -> Any:
        raise _Reached(forward(*args, **kwargs))

    return reach


def _blank(embedding: nn.Module, frame: Skeleton) -> Callable[[Tensor], Tensor]:
    """Embeddings of the right shape that nobody looks at: one zero, spread out."""
    width = embedding.get_parameter("weight").shape[1]
    zero = torch.zeros((), dtype=frame.dtype, device=frame.device)
    return lambda ids: zero.expand(*ids.shape, width)


@contextmanager
def _standing_in(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
