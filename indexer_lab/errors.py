"""The errors a user can cause: each message names the value, what was expected and what to do.

The command line prints the message as one line and leaves with the error's exit code; everything
else that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LabError(Exception):
    """A mistake that the user can mend."""

    exit_code = 2


class InputError(LabError):
    """A value, a file or a combination of settings that cannot work."""


class OutOfRoom(LabError):
    """Memory or disk ran out; the message says what to change."""

    exit_code = 3


class GateFailed(LabError):
    """A check that the user asked for did not hold."""

    exit_code = 1


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is in no table: repeats it and offers the nearest valid one."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return InputError(f"unknown {kind} {name!r}: {hint}known are {', '.join(names)}")
