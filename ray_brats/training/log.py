"""`metrics.jsonl` and TensorBoard of a run: each step stands once, also after a resume.

On a file system lines are appended to run/metrics.jsonl. Objects cannot grow, so on S3 they
go into immutable parts, run/metrics.parts/AAAAAA-NNNNNNNN.jsonl of attempt A from line N on,
which become one metrics.jsonl at the end. A part replaces what an earlier attempt wrote from
line N on.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tensorboardX
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ray_brats.files import storage
from ray_brats.files.claims import Attempt, Replaced, Superseded
from ray_brats.report import figures

FILE = "metrics.jsonl"
PARTS = "metrics.parts"
PART_LINES = 200
"""So many lines at most are lost with a node, on S3."""
EVENTS_SECONDS = 120.0
"""So long TensorBoard waits for news at most, on a file system; on S3 until the next checkpoint."""


class RunLog:
    """Writes lines, scalars and pictures on rank 0, nothing elsewhere; a context manager.

    Args:
        attempt: the claim of rank 0's group, None on other ranks.
        keep_until: lines of later steps are dropped: the checkpoint in use is of this step.

    Raises (from every method that writes):
        Superseded, Replaced: a newer attempt has taken over.
    """

    def __init__(self, attempt: Attempt | None, *, keep_until: int) -> None:
        self._attempt = attempt
        if attempt is None:
            return
        self._run_uri = attempt.run_uri
        self._remote = storage.is_remote(self._run_uri)
        lines = read(self._run_uri)
        self._lines = [json.dumps(line) for line in lines if line["step"] <= keep_until]
        self._published = len(self._lines)
        if not self._remote:
            attempt.write_bytes(storage.join(self._run_uri, FILE), _joined(self._lines))
        elif self._lines or storage.exists(storage.join(self._run_uri, FILE)):
            # An empty part: what later attempts read ends here.
            self._write_part(attempt)
        self._events = _Events(attempt, purge_step=keep_until + 1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._attempt is None:
            return
        self._events.close()
        try:
            if kind is None:
                self.flush()
                self._compact(self._attempt)
            elif not self._remote:
                # What led to the error is worth seeing; the error itself is worth more.
                with contextlib.suppress(Superseded, Replaced, OSError):
                    self._events.publish()
        finally:
            self._events.remove()

    def add(self, line: dict[str, Any]) -> None:
        """Log one step or event."""
        if self._attempt is None:
            return
        text = json.dumps(line)
        self._lines.append(text)
        if not self._remote:
            self._attempt.append(storage.join(self._run_uri, FILE), text.encode() + b"\n")
        elif len(self._lines) - self._published >= PART_LINES:
            self.flush()
        self._scalars(line)
        if not self._remote and self._events.age_seconds() > EVENTS_SECONDS:
            self._events.publish()

    def picture(self, step: int, example: Any) -> None:
        """Three planes through the tumour of a `validation.Example`, for TensorBoard."""
        if self._attempt is None:
            return
        figure = figures.draw_planes(
            np.asarray(example.image_HWDC[..., -1], np.float32),
            example.label_HWD,
            example.prediction_HWD,
            title=f"{example.case_id}, step {step}",
        )
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        self._events.board.add_image("validation", pixels, step, dataformats="HWC")

    def flush(self) -> None:
        """Make everything so far durable: called before a checkpoint of the same step."""
        if self._attempt is None:
            return
        if self._remote and len(self._lines) > self._published:
            self._write_part(self._attempt)
        self._events.publish()

    def _write_part(self, attempt: Attempt) -> None:
        name = f"{attempt.number:06d}-{self._published:08d}.jsonl"
        content = _joined(self._lines[self._published :])
        attempt.write_bytes(storage.join(self._run_uri, PARTS, name), content)
        self._published = len(self._lines)

    def _compact(self, attempt: Attempt) -> None:
        """The parts become one file; they are removed only when it stands."""
        if not self._remote:
            return
        attempt.write_bytes(storage.join(self._run_uri, FILE), _joined(self._lines))
        attempt.delete(storage.join(self._run_uri, PARTS))

    def _scalars(self, line: dict[str, Any]) -> None:
        values = dict(line)
        for group in ("dice", "soft_dice"):
            values |= {f"{group}/{name}": dice for name, dice in line.get(group, {}).items()}
        for name, value in values.items():
            if isinstance(value, float):
                self._events.board.add_scalar(name, value, line["step"])


class _Events:
    """TensorBoard's files, written on this node and published into the run.

    Its writer has a thread that asks nobody; so only what the attempt carries over is in the run.
    """

    def __init__(self, attempt: Attempt, *, purge_step: int) -> None:
        self._attempt = attempt
        self._folder = Path(tempfile.mkdtemp(prefix="ray-brats-tensorboard-"))
        self._published: dict[str, int] = {}
        self._published_at = time.monotonic()
        self.board: Any = tensorboardX.SummaryWriter(str(self._folder), purge_step=purge_step)

    def close(self) -> None:
        """Write to this node what is still in the writer's queue; `publish` may follow."""
        self.board.close()

    def remove(self) -> None:
        """Delete the files of this node."""
        shutil.rmtree(self._folder)

    def age_seconds(self) -> float:
        """Seconds since the last `publish`."""
        return time.monotonic() - self._published_at

    def publish(self) -> None:
        """Bring into the run what is new: by appending to its file, where that is possible."""
        self.board.flush()
        for file in self._folder.iterdir():
            target = storage.join(self._attempt.run_uri, "tensorboard", file.name)
            if storage.is_remote(target):
                self._attempt.write_bytes(target, file.read_bytes())
                continue
            begin = self._published.get(file.name, 0)
            content = storage.read_bytes(str(file), start=begin)
            self._attempt.append(target, content)
            self._published[file.name] = begin + len(content)
        self._published_at = time.monotonic()


def _joined(lines: list[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def read(run_uri: str) -> list[dict[str, Any]]:
    """The lines of a run's log, in order; a last line cut off by a crash is left out."""
    try:
        lines = _parsed(storage.read_bytes(storage.join(run_uri, FILE)))
    except FileNotFoundError:
        lines = []
    if storage.is_remote(run_uri):
        for file in storage.list_files(storage.join(run_uri, PARTS)):
            first = int(storage.name_of(file.uri).removesuffix(".jsonl").partition("-")[2])
            lines = lines[:first] + _parsed(storage.read_bytes(file.uri))
    return lines


def _parsed(content: bytes) -> list[dict[str, Any]]:
    """The lines up to the first that is none."""
    lines = []
    for text in content.splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict) or "step" not in line:
            break
        lines.append(line)
    return lines
