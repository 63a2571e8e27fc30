"""Triton's interpreter for tests: where there is no GPU, kernels run in it on the CPU."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch


def _import_kernels() -> None:
    """A kernel is interpreted or compiled for good when it is defined, so only then is the variable
    set: other tests in this process and commands that they start never see it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for module in iter_modules(import_module("indexer_kernels").__path__):
            import_module(f"indexer_kernels.{module.name}")


def _mend_interpreter() -> None:
    """Two mends of Triton 3.6's interpreter, for tests alone.

    It reads a loop bound with int(array([n])), which numpy 2.4 refuses. And it patches the whole
    of triton.language again at each call of a device function, which is most of its time: here the
    language is patched once a launch.
    """
    from triton import language
    from triton.runtime import interpreter

    original = interpreter._patch_lang
    both = SimpleNamespace(__globals__={"tl": language, "core": language.core})
    running = []

    def patch_once(function: Any) -> Any:
        if running:
            return None
        scope = original(both)
        scope.set_attr(language.tensor, "__index__", lambda self: self.handle.data.item())
        running.append(scope)
        restore = scope.restore

        def finish() -> None:
            running.clear()
            restore()

        scope.restore = finish
        return scope

    interpreter._patch_lang = patch_once


_prepared: list[bool] = []


def prepare() -> None:
    """Once a process: defines the kernels for the interpreter and mends it.

    Triton's own functions too are interpreted or compiled for good when triton is first imported,
    and transformers may do that: the outermost conftest calls this before any module of tests is
    read, whichever of them a process runs first.
    """
    if not _prepared and not torch.cuda.is_available() and find_spec("triton"):
        _prepared.append(True)
        _import_kernels()
        _mend_interpreter()


@contextmanager
def interpreting() -> Iterator[None]:
    """The first launch imports more of triton, which must see the same setting. Padding rows of a
    tile may meet inf; numpy's remarks on that are no news to a test that sets inf itself."""
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patch.setenv("TRITON_INTERPRET", "1")
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
            yield
