"""`metrics.jsonl` and TensorBoard scalars of a run: each step stands once, also after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

import tensorboardX

from ray_brats import storage

FILE = "metrics.jsonl"


class RunLog:
    """Appends lines on rank 0; a context manager.

    Args:
        run_uri: the run's folder.
        keep_until: lines of later steps are dropped: the checkpoint in use is of this step.
        writes: False on ranks that only take part.
    """

    def __init__(self, run_uri: str, *, keep_until: int, writes: bool) -> None:
        self._uri = storage.join(run_uri, FILE)
        self._remote = storage.is_remote(run_uri)
        self._writes = writes
        self._lines: list[str] = []
        if not writes:
            return
        self._lines = [json.dumps(line) for line in read(run_uri) if line["step"] <= keep_until]
        self._publish()
        self._board: Any = None
        if not self._remote:
            folder = storage.join(run_uri, "tensorboard")
            self._board = tensorboardX.SummaryWriter(folder, purge_step=keep_until + 1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writes:
            self._publish_if_remote()
            if self._board is not None:
                self._board.close()

    def add(self, line: dict[str, Any]) -> None:
        """One step or event; objects on S3 are rewritten when an event comes."""
        if not self._writes:
            return
        text = json.dumps(line)
        self._lines.append(text)
        if self._remote:
            if "event" in line:
                self._publish()
        else:
            with Path(self._uri).open("a") as file:
                file.write(text + "\n")
        self._scalars(line)

    def _scalars(self, line: dict[str, Any]) -> None:
        if self._board is None:
            return
        values = {**line, **{f"dice/{name}": dice for name, dice in line.get("dice", {}).items()}}
        for name, value in values.items():
            if isinstance(value, float):
                self._board.add_scalar(name, value, line["step"])

    def _publish(self) -> None:
        storage.write_bytes(self._uri, "".join(line + "\n" for line in self._lines).encode())

    def _publish_if_remote(self) -> None:
        if self._remote:
            self._publish()


def read(run_uri: str) -> list[dict[str, Any]]:
    """The lines of a run's log, in order; a last line cut off by a crash is left out."""
    try:
        content = storage.read_bytes(storage.join(run_uri, FILE))
    except FileNotFoundError:
        return []
    lines = []
    for text in content.decode().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines
