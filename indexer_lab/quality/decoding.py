"""How a selector's model goes on from a prompt, where that is not token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor
from transformers import DynamicCache

from indexer_lab.quality.forward import Clock, Stop
from indexer_lab.selectors.following import Follower


class Decoding(Protocol):
    """One sequence's way of decoding. A cache that it is given is not changed.

    prompt: int64 [token], whose last token's query is the first that answers.
    cache:  of the prompt but its last token.
    """

    def prepare(self, model: Any, prompt: Tensor, whole: bool) -> None:
        """Called before any selection; `whole` when the prompt will be sparse too."""
        ...

    def generate(
        self, model: Any, prompt: Tensor, cache: DynamicCache, tokens: int, stop: Stop, clock: Clock
    ) -> list[int]:
        """Greedy tokens, at most `tokens`, the last one kept."""
        ...

    def replay(
        self, model: Any, prompt: Tensor, cache: DynamicCache, forced: Sequence[int], clock: Clock
    ) -> Tensor:
        """float32 [token, vocabulary]: log-probabilities that predict each forced token."""
        ...


def own_decoding(follower: Follower) -> Decoding | None:
    """The follower's own way of decoding; None for token by token."""
    from indexer_lab.selectors.retro_follow import RetroFollower
    from indexer_lab.selectors.spec_follow import SpecFollower

    if isinstance(follower, RetroFollower):
        from indexer_lab.quality.revisiting import Revisiting

        return Revisiting(follower.window)
    if isinstance(follower, SpecFollower):
        from indexer_lab.quality.speculating import Speculating

        return Speculating(follower)
    return None
