"""Nothing is downloaded unasked: inside the guard, no library reaches the network."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def offline(active: bool = True) -> Iterator[None]:
    """While the body runs, hub clients are in their offline mode and no socket leaves the machine.

    The sockets too, because tasks fetch with whatever they like: nltk, requests, urllib.
    """
    with contextlib.ExitStack() as undo:
        if active:
            for module, name in _switches():
                undo.enter_context(_replaced(module, name, True))
            undo.enter_context(_replaced(socket, "getaddrinfo", _refuse))
            undo.enter_context(_replaced(socket.socket, "connect", _local(socket.socket.connect)))
        yield


def _switches() -> Iterator[tuple[Any, str]]:
    """Where libraries that are loaded keep their offline flag: read at import, so set again."""
    for module, name in (
        ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
        ("datasets.config", "HF_HUB_OFFLINE"),
        ("datasets.config", "HF_DATASETS_OFFLINE"),
    ):
        if hasattr(sys.modules.get(module), name):
            yield sys.modules[module], name


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    inherited, before = name not in vars(owner), getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def _refuse(*args: Any, **kwargs: Any) -> Any:
    raise ConnectionError(errno.ENETUNREACH, "nothing is downloaded unasked")


def _local(connect: Callable[..., Any]) -> Callable[..., Any]:
    """Lets processes of this machine talk to each other, and nobody else."""

    def connecting(self: socket.socket, address: Any) -> Any:
        return connect(self, address) if self.family == socket.AF_UNIX else _refuse()

    return connecting


def unreachable(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is about the network or what it would bring."""
    while error is not None:
        kind = type(error).__name__
        if isinstance(error, ConnectionError | socket.gaierror) or kind in _NETWORK:
            return True
        error = error.__cause__ or error.__context__
    return False


_NETWORK = {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ConnectTimeout"}
