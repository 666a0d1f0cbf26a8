"""`metrics.jsonl` and TensorBoard of a run: each step stands once, also after a resume.

On a file system lines are appended to run/metrics.jsonl. Objects cannot grow, so on S3 they
go into immutable parts, run/metrics.parts/AAAAAA-NNNNNNNN.jsonl of attempt A from line N on,
which become one metrics.jsonl at the end. A part replaces what an earlier attempt wrote from
line N on.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tensorboardX
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ray_brats.files import storage
from ray_brats.files.claims import Attempt
from ray_brats.report import figures

FILE = "metrics.jsonl"
PARTS = "metrics.parts"
PART_LINES = 200
"""So many lines at most are lost with a node, on S3."""


class RunLog:
    """Writes lines, scalars and pictures on rank 0, nothing elsewhere; a context manager.

    Args:
        run_uri: the run's folder.
        attempt: the claim of rank 0's group, None on other ranks.
        keep_until: lines of later steps are dropped: the checkpoint in use is of this step.

    Raises (from every method that writes):
        Superseded: a newer attempt has taken over.
    """

    def __init__(self, run_uri: str, attempt: Attempt | None, *, keep_until: int) -> None:
        self._run_uri, self._attempt = run_uri, attempt
        self._remote = storage.is_remote(run_uri)
        self._board: Any = None
        if attempt is None:
            return
        self._lines = [json.dumps(line) for line in read(run_uri) if line["step"] <= keep_until]
        self._published = len(self._lines)
        if not self._remote:
            attempt.check()
            storage.write_bytes(storage.join(run_uri, FILE), _joined(self._lines))
        elif self._lines or storage.exists(storage.join(run_uri, FILE)):
            # An empty part: what later attempts read ends here.
            self._write_part()
        self._board_folder = (
            tempfile.mkdtemp(prefix="ray-brats-tensorboard-")
            if self._remote
            else storage.join(run_uri, "tensorboard")
        )
        self._board = tensorboardX.SummaryWriter(self._board_folder, purge_step=keep_until + 1)

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
        self._board.close()
        if kind is None:
            self.flush()
            self._compact()
        if self._remote:
            storage.delete(self._board_folder)

    def add(self, line: dict[str, Any]) -> None:
        """One step or event."""
        if self._attempt is None:
            return
        text = json.dumps(line)
        self._lines.append(text)
        if not self._remote:
            self._attempt.check()
            with Path(self._run_uri, FILE).open("a") as file:
                file.write(text + "\n")
        elif len(self._lines) - self._published >= PART_LINES:
            self.flush()
        self._scalars(line)

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
        self._board.add_image("validation", pixels, step, dataformats="HWC")

    def flush(self) -> None:
        """Make everything so far durable: called before a checkpoint of the same step."""
        if self._attempt is None:
            return
        self._board.flush()
        if self._remote:
            if len(self._lines) > self._published:
                self._write_part()
            for file in Path(self._board_folder).iterdir():
                target = storage.join(self._run_uri, "tensorboard", file.name)
                storage.write_bytes(target, file.read_bytes())

    def _write_part(self) -> None:
        assert self._attempt is not None
        self._attempt.check()
        name = f"{self._attempt.number:06d}-{self._published:08d}.jsonl"
        content = _joined(self._lines[self._published :])
        storage.write_bytes(storage.join(self._run_uri, PARTS, name), content)
        self._published = len(self._lines)

    def _compact(self) -> None:
        """The parts become one file; they are removed only when it stands."""
        if not self._remote:
            return
        storage.write_bytes(storage.join(self._run_uri, FILE), _joined(self._lines))
        storage.delete(storage.join(self._run_uri, PARTS))

    def _scalars(self, line: dict[str, Any]) -> None:
        values = dict(line)
        for group in ("dice", "soft_dice"):
            values |= {f"{group}/{name}": dice for name, dice in line.get(group, {}).items()}
        for name, value in values.items():
            if isinstance(value, float):
                self._board.add_scalar(name, value, line["step"])


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
    """Up to the first line that is none."""
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
