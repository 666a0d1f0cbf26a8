"""Batches that processes of their own make, in memory that they share with the one that trains.

Making a sample is work of Python: a thread that does it waits for the one that trains, and several
wait for each other. Process k of P makes the batches of the steps k, k + P, k + 2 P, … after
the first; which samples are in a step is no matter of who makes them.

A process is this file, run as a module. It is told what to make on its standard input, writes a
batch's bytes to a place of the shared memory and the rest of it to its standard output, and may
use that place again when it is told so. It ends with the one that started it, whose end of the
pipe is closed then, however that ended.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO, Any, Protocol

import numpy as np

from ray_brats.errors import StageFailed

PLACES = 2
"""Batches of one process that are made or waiting."""
_LENGTH = struct.Struct("<Q")


class Stream(Protocol):
    """What is made: a `batches.BatchStream`, which can be pickled."""

    def batch(self, step: int) -> Any:
        """The batch of a step."""
        ...


class Producers:
    """Processes that make the batches of a stream; a context manager.

    Args:
        stream: whose batches.
        step: the first that is asked for; the others are asked for in order.
        processes: how many.
        batch_bytes: the most that a batch's arrays hold.
    """

    def __init__(self, stream: Stream, step: int, processes: int, *, batch_bytes: int) -> None:
        self._first = step
        self._children = [
            _Child((stream, step + number, processes), batch_bytes) for number in range(processes)
        ]

    def __enter__(self) -> Producers:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for child in self._children:
            child.close()

    def kill(self) -> None:
        """End the processes, which hold nothing but what they were given; `batch` fails then."""
        for child in self._children:
            child.kill()

    def batch(self, step: int) -> Any:
        """The batch of a step.

        Raises:
            StageFailed: the process that makes it is gone.
            Exception: what it raised instead.
        """
        return self._children[(step - self._first) % len(self._children)].next()


class _Child:
    def __init__(self, work: tuple[Stream, int, int], batch_bytes: int) -> None:
        # A multiple of a page.
        self._place_bytes = -(-batch_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._place = 0
        with _nameless() as file:
            os.ftruncate(file.fileno(), PLACES * self._place_bytes)
            self._memory = mmap.mmap(file.fileno(), PLACES * self._place_bytes)
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(file.fileno()), str(self._place_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[file.fileno()],
            )
        _send(self._pipe(self._process.stdin), pickle.dumps(work))

    def next(self) -> Any:
        content = _received(self._pipe(self._process.stdout))
        if content is None:
            status = self._process.wait()
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            memory = ": most likely its memory was too little" if status == -signal.SIGKILL else ""
            raise StageFailed(f"a process that makes samples ended ({how}){memory}")
        rest, sizes = pickle.loads(content)  # of our own process
        at = self._place * self._place_bytes
        buffers = []
        for size in sizes:
            # A copy: TensorFlow may take an array as it is, and the place is used again.
            buffers.append(np.frombuffer(self._memory, np.uint8, size, at).copy())
            at += size
        self._place = (self._place + 1) % PLACES
        with contextlib.suppress(BrokenPipeError):
            self._pipe(self._process.stdin).write(b".")
            self._pipe(self._process.stdin).flush()
        if isinstance(rest, BaseException):
            raise rest
        return pickle.loads(rest, buffers=buffers)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            # What was not read any more is of no interest.
            with contextlib.suppress(BrokenPipeError):
                self._pipe(pipe).close()
        self._memory.close()

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe


def _nameless() -> IO[bytes]:
    """A file in memory that is gone with the last process that has it."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("ray-brats-batches"), "w+b")
    return tempfile.TemporaryFile()


def _send(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(_LENGTH.pack(len(content)))
    pipe.write(content)
    pipe.flush()


def _received(pipe: IO[bytes]) -> bytes | None:
    """What `_send` sent; None where the other end is closed."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    content = pipe.read(length)
    return content if len(content) == length else None


def _packed(made: Any, memory: memoryview) -> tuple[bytes, Sequence[int]]:
    """An object without the bytes of its arrays, which are written to the memory; their sizes."""
    parts: list[pickle.PickleBuffer] = []
    rest = pickle.dumps(made, protocol=5, buffer_callback=parts.append)
    at, sizes = 0, []
    for part in parts:
        raw = part.raw()
        memory[at : at + raw.nbytes] = raw
        at += raw.nbytes
        sizes.append(raw.nbytes)
    return rest, sizes


def _main(number: int, place_bytes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    memory = memoryview(mmap.mmap(number, PLACES * place_bytes))
    content = _received(source)
    if content is None:
        return
    stream, step, stride = pickle.loads(content)  # of our own process
    for place in _places(source):
        own = memory[place * place_bytes : (place + 1) * place_bytes]
        try:
            answer: tuple[Any, Sequence[int]] = _packed(stream.batch(step), own)
        except Exception as error:  # noqa: BLE001 - handed over: raised where the batch is used
            answer = error, ()
        try:
            _send(sink, pickle.dumps(answer))
        except BrokenPipeError:
            return
        step += stride


def _places(source: IO[bytes]) -> Any:
    """The places that may be written to, for ever; ends where the other end is closed."""
    number = 0
    while number < PLACES or source.read(1):
        yield number % PLACES
        number += 1


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
