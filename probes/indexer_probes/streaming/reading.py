"""Reads the tensors of a layer from disk into host memory while another layer computes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from indexer_probes.errors import ProbeError
from indexer_probes.streaming.headers import Entry

PIECE = 16 << 20  # bytes of one read: large enough for a disk's full rate, small enough to share
READERS = 8  # reads under way at once; a fast disk needs several


@dataclass(frozen=True)
class Bytes:
    """What was read of one part: tensors by name, on the host, and how long the disk took."""

    tensors: dict[str, Tensor]
    size: int
    seconds: float


class Reader:
    """Reads one part ahead. A context manager, whose threads end with it.

    pinned: the bytes go into one page-locked buffer, made once and used for every part, from which
            a GPU copies at its full rate. `read` must then not be called before the tensors of the
            part before it have been copied.
    """

    def __init__(self, pinned: bool = False):
        self._pinned = pinned
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._ahead = ThreadPoolExecutor(1, "layer")
        self._readers = ThreadPoolExecutor(READERS, "read")

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._readers.shutdown(cancel_futures=True)
        self._ahead.shutdown(cancel_futures=True)

    def read(self, entries: Iterable[Entry]) -> Future[Bytes]:
        """Begins to read these tensors. The result raises ProbeError when a file cannot be read."""
        return self._ahead.submit(self._read, list(entries))

    def _read(self, entries: list[Entry]) -> Bytes:
        began = time.perf_counter()
        runs = list(_runs(entries))
        size = sum(_padded(run[-1].start + run[-1].size - run[0].start) for run in runs)
        buffer = self._room(size)
        tensors: dict[str, Tensor] = {}
        jobs: list[Future[None]] = []
        place = 0
        for run in runs:
            begin, end = run[0].start, run[-1].start + run[-1].size
            target = buffer[place : place + end - begin]
            jobs += [self._readers.submit(_fill, *it) for it in _pieces(run[0].file, begin, target)]
            tensors |= {entry.name: _placed(target, entry, begin) for entry in run}
            place += _padded(end - begin)
        for job in jobs:
            job.result()
        read = sum(entry.size for entry in entries)
        return Bytes(
            {entry.name: _typed(tensors[entry.name], entry) for entry in entries},
            read,
            time.perf_counter() - began,
        )

    def _room(self, size: int) -> Tensor:
        """uint8 [size]: the pinned buffer's beginning, or memory that the tensors will keep."""
        if not self._pinned:
            return torch.empty(size, dtype=torch.uint8)
        if len(self._buffer) < size:
            self._buffer = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return self._buffer[:size]


def plain_rate(files: list[Path], seconds: float = 1.0, most: int = 4 << 30) -> float:
    """Bytes a second that the disk gives to plain reads of these files, nothing else running.

    What the system keeps of the bytes in memory is dropped first. Reads for so many seconds, from
    the last file's end on back, at most `most` bytes. returns: 0.0 when there is nothing to read.
    """
    begin, done = time.perf_counter(), 0
    buffer = torch.empty(READERS * PIECE, dtype=torch.uint8)
    with ThreadPoolExecutor(READERS) as readers:
        for file, start, size in _backwards(files, len(buffer)):
            _forget(file, start, size)
            jobs = [readers.submit(_fill, *it) for it in _pieces(file, start, buffer[:size])]
            for job in jobs:
                job.result()
            done += size
            if time.perf_counter() - begin > seconds or done >= most:
                break
    return done / (time.perf_counter() - begin)


def forget(files: Iterable[Path]) -> None:
    """Asks the system to drop what it keeps in memory of these files."""
    for file in files:
        _forget(file, 0, 0)


def _forget(file: Path, start: int, size: int) -> None:
    if hasattr(os, "posix_fadvise"):
        with file.open("rb") as handle:
            os.posix_fadvise(handle.fileno(), start, size, os.POSIX_FADV_DONTNEED)


def _backwards(files: list[Path], step: int) -> Iterator[tuple[Path, int, int]]:
    for file in reversed(files):
        end = file.stat().st_size
        while end > 0:
            start = max(0, end - step)
            yield file, start, end - start
            end = start


def _runs(entries: list[Entry]) -> Iterator[list[Entry]]:
    """The entries in the order of their bytes, those that follow each other in a file together."""
    run: list[Entry] = []
    for entry in sorted(entries, key=lambda entry: (str(entry.file), entry.start, entry.size)):
        follows = run and run[-1].file == entry.file
        if follows and run[-1].start + run[-1].size == entry.start:
            run.append(entry)
            continue
        if run:
            yield run
        run = [entry]
    if run:
        yield run


def _pieces(file: Path, start: int, target: Tensor) -> Iterator[tuple[Path, int, Tensor]]:
    for first in range(0, len(target), PIECE):
        yield file, start + first, target[first : first + PIECE]


def _fill(file: Path, start: int, target: Tensor) -> None:
    """Reads bytes of a file from `start` on until the target, uint8 [byte], is full."""
    view, done = target.numpy().data, 0
    try:
        with file.open("rb", buffering=0) as handle:
            while done < len(view):
                count = os.preadv(handle.fileno(), [view[done:]], start + done)
                if not count:
                    raise ProbeError(f"{file} became shorter while it was read; fetch it again")
                done += count
    except OSError as error:
        raise ProbeError(f"{file} cannot be read: {error.strerror or error}") from error


def _placed(run: Tensor, entry: Entry, begin: int) -> Tensor:
    return run[entry.start - begin : entry.start - begin + entry.size]


def _typed(raw: Tensor, entry: Entry) -> Tensor:
    """The bytes as the tensor that they are; copied where they do not lie on its own steps."""
    if raw.storage_offset() % entry.dtype.itemsize:
        raw = raw.clone()
    return raw.view(entry.dtype).view(entry.shape)


def _padded(size: int) -> int:
    return (size + 63) // 64 * 64
