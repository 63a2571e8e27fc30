"""Switches a model to the probing attention, and back exactly as it was.

One session serves all captures that are open on one model: the first installs it, the last
removes it. What a session touches is the attention name in the model's configurations, forward
hooks on the modules that a family listens to, and two entries in transformers' tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    causal_mask_function,
    eager_mask,
    sdpa_mask,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from indexer_probes.attention import attend, eager_function, spread
from indexer_probes.errors import ProbeError
from indexer_probes.families import AttentionCall, Family, family_of
from indexer_probes.families.base import Attention
from indexer_probes.indexer import Chosen, Watch

NAME = "indexer_probes"
_CONFIG_KEY = "_attn_implementation_internal"
_ABSENT = object()
_SESSIONS: list[Session] = []
SAMPLED = 4
"""Rows of a mask that are held against the rule: both ends and between."""
_PADDED = "attention_mask holds zeros: capture one sequence at a time, no padding"
_PACKED = "packed sequences or a custom mask: capture one plain sequence at a time"


class Listener(Protocol):
    """Takes a layer's call while the layer runs; `layers` says which it wants.

    What `take` returns, [1, query, head, value_dim], is the layer's attention output in the model's
    own place; None leaves that to the model's rule. A batch comes as one call a sequence, and only
    to a listener that `batches`.
    """

    layers: tuple[int, ...]
    batches: bool

    def take(
        self, call: AttentionCall, layer: int, heard: dict[str, Tensor], operands: Chosen | None
    ) -> Tensor | None: ...


class Session:
    """A model under probes: its attention modules by layer, and who listens."""

    def __init__(self, model: nn.Module, family: Family, layers: dict[nn.Module, int]):
        self.model = model
        self.family = family
        self.layers = layers
        self.listeners: list[Listener] = []
        self._undo = ExitStack()
        self._heard: dict[int, dict[str, Tensor]] = {}
        self._entered: dict[int, Watch] = {}
        self._watched: dict[int, Watch] = {}
        self._latest: tuple[int, nn.Module, Watch] | None = None

    def join(self, listener: Listener) -> None:
        """Adds a listener; the first one switches the model over."""
        if not self.listeners:
            self._undo.enter_context(self._installed())
        self.listeners.append(listener)

    def leave(self, listener: Listener) -> None:
        """Removes a listener; the last one switches the model back."""
        self.listeners.remove(listener)
        if not self.listeners:
            self._undo.close()

    @contextmanager
    def _installed(self) -> Iterator[None]:
        """The model attends through this session inside the body, and as before after it."""
        with ExitStack() as undo:
            _SESSIONS.append(self)
            undo.callback(_SESSIONS.remove, self)
            undo.enter_context(_registered())
            undo.callback(self._forget)
            hook = self.model.register_forward_pre_hook(_refuse_padding, with_kwargs=True)
            undo.callback(hook.remove)
            for attention, layer in self.layers.items():
                self._listen(attention, layer, undo)
            for config in _configs(self.model):
                undo.callback(_restore, config, config.__dict__.get(_CONFIG_KEY, _ABSENT))
                setattr(config, _CONFIG_KEY, NAME)
            yield

    def _forget(self) -> None:
        """Lets go of what the last forward left."""
        self._latest = None
        self._heard.clear()
        self._watched.clear()

    def hear(self, calls: Sequence[AttentionCall]) -> list[Tensor | None]:
        """Hands one attention call a sequence to its layer's listeners, in the order they came.

        returns: for each sequence the output that a listener put in the model's place, or None.
        """
        layer = self.layers[calls[0].attention]
        heard = self._heard.pop(layer, {})
        listeners = [each for each in self.listeners if layer in each.layers]
        if len(calls) > 1 and not all(each.batches for each in listeners):
            raise ProbeError(_one_sequence(len(calls)))
        operands = self._operands(calls[0].attention, layer, bool(listeners))
        return [
            _answer(
                listeners,
                call,
                layer,
                {name: output[call.sequence, None] for name, output in heard.items()},
                None if operands is None else operands.of(call.sequence, call.length),
            )
            for call in calls
        ]

    def _operands(self, attention: Attention, layer: int, wanted: bool) -> Chosen | None:
        """What this layer's indexer chose, or the earlier one's whose selection it reuses."""
        watch = self._watched.pop(layer, None)
        if self.family.reuses(attention):
            if not wanted or self._latest is None:
                return None
            source, indexer, earlier = self._latest
            operands = earlier.operands()
            return operands and replace(operands, source=source, indexer=indexer)  # type: ignore[type-var]
        if watch is None:
            return None
        own = self.family.indexer(attention)
        assert own is not None
        self._latest = (layer, own, watch) if self._shares else None
        return watch.operands() if wanted else None

    @property
    def _shares(self) -> bool:
        """Whether a layer reuses another one's selection."""
        return any(self.family.reuses(attention) for attention in self.layers)

    def _listen(self, attention: Attention, layer: int, undo: ExitStack) -> None:
        for name, module in self.family.overheard(attention).items():
            hook = module.register_forward_hook(self._hearing(layer, name))
            undo.callback(hook.remove)
        for name, module in self.family.fed(attention).items():
            hook = module.register_forward_pre_hook(self._fed(layer, name))
            undo.callback(hook.remove)
        indexer = self.family.indexer(attention)
        if indexer is None:
            return
        undo.callback(indexer.register_forward_pre_hook(self._entering(layer)).remove)
        hook = indexer.register_forward_hook(self._leaving(layer), always_call=True)
        undo.callback(hook.remove)

    def _hearing(self, layer: int, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            if any(layer in each.layers for each in self.listeners):
                self._heard.setdefault(layer, {})[name] = output.detach()

        return hook

    def _fed(self, layer: int, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            if any(layer in each.layers for each in self.listeners):
                self._heard.setdefault(layer, {})[name] = args[0].detach()

        return hook

    def _entering(self, layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            watch = self._entered[layer] = self.family.watch(module, layer)
            watch.__enter__()

        return hook

    def _leaving(self, layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            watch = self._entered.pop(layer, None)
            if watch is not None:  # an earlier pre-hook may have raised before ours ran
                watch.__exit__(None, None, None)
                self._watched[layer] = watch

        return hook


def attention_layers(model: nn.Module) -> dict[nn.Module, int]:
    """The model's attention modules and their layer numbers, first layer first.

    Raises ProbeError when there are none, or when one bypasses transformers' attention interface.
    """
    config: Any = model.config
    text, family = config.get_text_config(), family_of(config.model_type)
    found: dict[nn.Module, int] = {
        module: layer
        for module in model.modules()
        if isinstance(layer := getattr(module, "layer_idx", None), int)
        and getattr(module, "config", text) is text  # not an encoder's of images or sound
        and family.is_attention(module)
    }
    if not found:
        raise ProbeError(f"{type(model).__name__} holds no attention layer with a layer number")
    for attention in found:
        eager_function(attention)
    return found


def session_of(model: nn.Module) -> Session:
    """The session open on this model, or a new one. Raises ProbeError for what has no probe."""
    config = getattr(model, "config", None)
    if not isinstance(config, PretrainedConfig):
        raise ProbeError(f"{type(model).__name__} is no transformers model: it has no config")
    from indexer_probes.proving import adopt  # which captures a tiny model itself

    family = adopt(config)
    layers = attention_layers(model)
    for session in _SESSIONS:
        if session.layers.keys() == layers.keys():
            return session
    for attention, layer in layers.items():
        if reason := family.refusal(attention):
            raise ProbeError(f"layer {layer} cannot be captured: {reason}")
    return Session(model, family, layers)


def probing_attention(
    module: Attention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    indices: Tensor | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """The attention function under our name: tells the session, then computes the output."""
    if dropout:
        raise ProbeError(f"attention dropout {dropout} is on; call model.eval() before capturing")
    family = family_of(module.config.model_type)
    rule = family.mask(module)
    whole = AttentionCall(module, query, key, value, scaling, indices, extra)
    if query.shape[0] == 1:
        calls = [_read(family, whole, attention_mask)]
    elif family.selects_units:
        raise ProbeError(_one_sequence(query.shape[0]))
    else:
        calls = _sequences(whole, attention_mask)
    heard = [session.hear(calls) for session in _SESSIONS if module in session.layers]
    outputs = []
    for call, answers in zip(calls, zip(*heard, strict=True), strict=True):
        steered = next((answer for answer in answers if answer is not None), None)
        outputs.append(attend(call, rule) if steered is None else steered)
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)), None


def probing_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int | Tensor = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | None = None,
    allow_is_causal_skip: bool = True,
    config: PretrainedConfig | None = None,
    device: torch.device | str = "cpu",
    **extra: Any,
) -> Tensor | None:
    """The mask function under our name: refuses what a mask rule cannot say; mostly no mask.

    returns: None, or bool [1, 1, query, key] for a family that reads its mask. For one decode step
             of a batch, bool [sequence, 1, 1, key]: which keys are not left padding.
    """
    if batch_size != 1 and q_length != 1:
        raise ProbeError(_one_sequence(batch_size))
    if int(kv_offset) or int(q_offset) + q_length != kv_length:
        held = f"keys {int(kv_offset)} to {int(kv_offset) + kv_length - 1}"
        raise ProbeError(
            f"the cache holds {held} for queries up to {int(q_offset) + q_length - 1}; a capture "
            "needs every earlier key and no empty slot: pass use_cache=False, or a DynamicCache "
            "made without the configuration so that it drops nothing"
        )
    if batch_size != 1:
        return _left_padding(attention_mask, batch_size, kv_length, device)
    if attention_mask is not None and not bool(attention_mask.all()):
        raise ProbeError(_PADDED)
    family = None if config is None else family_of(config.model_type)
    if family is None or not (family.reads_mask or family.samples_mask):
        if not allow_is_causal_skip:
            raise ProbeError(_PACKED)
        return None
    if family.samples_mask:
        rows = spread(q_length, SAMPLED).tolist()
        parts = [
            sdpa_mask(
                1, 1, kv_length, q_offset=int(q_offset) + row, mask_function=mask_function,
                allow_is_causal_skip=False, device=device,
            )
            for row in rows
        ]  # fmt: skip
        return torch.cat(parts, dim=2)
    if mask_function is not causal_mask_function and not getattr(config, "sliding_window", None):
        raise ProbeError(_PACKED)  # a window's mask is held against the rule where it is used
    make = eager_mask if family.float_mask else sdpa_mask
    mask: Tensor | None = make(
        batch_size,
        q_length,
        kv_length,
        q_offset=int(q_offset),
        mask_function=mask_function,
        allow_is_causal_skip=False,
        device=device,
    )
    return mask


def _left_padding(
    attention_mask: Tensor | None, batch: int, keys: int, device: torch.device | str
) -> Tensor:
    """bool [sequence, 1, 1, key]. Raises ProbeError when a key follows a padded one's right."""
    if attention_mask is None:
        return torch.ones(batch, 1, 1, keys, dtype=torch.bool, device=device)
    seen = attention_mask[:, :keys].bool()
    if seen.shape != (batch, keys) or not bool((seen.int().diff(dim=-1) >= 0).all()):
        raise ProbeError(
            f"attention_mask {tuple(attention_mask.shape)} of a batch must hold zeros on the left "
            f"alone, [{batch}, {keys}]: pad shorter sequences at their beginning"
        )
    return seen[:, None, None]


def _sequences(whole: AttentionCall, mask: Tensor | None) -> list[AttentionCall]:
    """One call a sequence, each without its padding: what it would be in a batch of its own."""
    batch = whole.queries.shape[0]
    if whole.rows != 1 or mask is None or tuple(mask.shape) != (batch, 1, 1, whole.length):
        raise ProbeError(_one_sequence(batch))
    pads = (~mask[:, 0, 0]).sum(-1).tolist()
    return [
        replace(
            whole,
            queries=whole.queries[each, None],
            keys=_alone(whole.keys[each, None], pad),
            values=_alone(whole.values[each, None], pad),
            indices=None if whole.indices is None else whole.indices[each, None] - pad,
            sequence=each,
        )
        for each, pad in enumerate(pads)
    ]


def _alone(tensor: Tensor, pad: int) -> Tensor:
    """[1, kv_head, key, dim] without its padding, laid out as in a batch of its own: a product of
    other strides sums in another order."""
    cut = tensor[:, :, pad:]
    return cut.contiguous() if tensor.is_contiguous() else cut


def _answer(
    listeners: list[Listener],
    call: AttentionCall,
    layer: int,
    heard: dict[str, Tensor],
    operands: Chosen | None,
) -> Tensor | None:
    """What one of the listeners put in the place of this call's output, or None."""
    taken = [listener.take(call, layer, heard, operands) for listener in listeners]
    answers = [answer for answer in taken if answer is not None]
    if len(answers) > 1:
        raise ProbeError(f"layer {layer}: two steerings are open on it; leave one first")
    return answers[0] if answers else None


def _read(family: Family, call: AttentionCall, mask: Tensor | None) -> AttentionCall:
    """The call of one sequence with what the family selected, its mask held against the rule."""
    call = replace(call, entries=family.entry_count(call))
    if not family.folds:
        if mask is not None:
            _expect_rule(call, mask)
        return family.read(call, mask)
    if mask is None:
        raise ProbeError(_PACKED)
    kept = (mask if mask.dtype == torch.bool else mask == 0)[:, 0]
    return family.read(replace(call, kept=kept), mask)


def _expect_rule(call: AttentionCall, attention_mask: Tensor) -> None:
    """Raises ProbeError when a mask that somebody handed over differs from the family's rule."""
    rule = family_of(call.attention.config.model_type).mask(call.attention)
    rows = spread(call.rows, SAMPLED).to(call.queries.device)
    sampled = attention_mask.shape[2] == len(rows)
    seen = attention_mask[0, 0] if sampled else attention_mask[0, 0, rows]
    seen = seen if seen.dtype == torch.bool else seen == 0
    if seen.shape[-1] != call.length or not torch.equal(
        seen, rule.visible(rows + call.first, call.length)
    ):
        raise ProbeError(
            f"attention_mask {tuple(attention_mask.shape)} differs from the model's own causal "
            "mask; pass none, or ones of shape [1, tokens]"
        )


def _refuse_padding(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    """Raises ProbeError for one padded sequence: not every family shows its padding to a mask."""
    mask = kwargs.get("attention_mask")
    if isinstance(mask, Tensor) and len(mask) == 1 and mask.ndim == 2 and not bool(mask.all()):
        raise ProbeError(_PADDED)


def _one_sequence(batch: int) -> str:
    return (
        f"batch of {batch} sequences: a capture takes one sequence at a time, a steering a batch "
        "only for one decode step, padded on the left"
    )


@contextmanager
def _registered() -> Iterator[None]:
    """Our functions stand in transformers' tables; what stood there before returns after."""
    tables = [
        (type(ALL_ATTENTION_FUNCTIONS)._global_mapping, probing_attention),
        (type(ALL_MASK_ATTENTION_FUNCTIONS)._global_mapping, probing_mask),
    ]
    before = [table.get(NAME, _ABSENT) for table, _ in tables]
    try:
        for table, function in tables:
            table[NAME] = function
        yield
    finally:
        for (table, _), old in zip(tables, before, strict=True):
            if old is _ABSENT:
                table.pop(NAME, None)
            else:
                table[NAME] = old


def _configs(model: nn.Module) -> list[PretrainedConfig]:
    """Every distinct configuration that a module of this model reads."""
    found = (getattr(module, "config", None) for module in model.modules())
    return list({id(each): each for each in found if isinstance(each, PretrainedConfig)}.values())


def _restore(config: PretrainedConfig, before: Any) -> None:
    if before is _ABSENT:
        config.__dict__.pop(_CONFIG_KEY, None)
    else:
        setattr(config, _CONFIG_KEY, before)
