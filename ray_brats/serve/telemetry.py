"""What operators see: Prometheus metrics, and one line a request without patient data."""

from __future__ import annotations

import json
import sys
from collections import deque
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ray_brats.serve.models import Answer

KEPT_LINES = 10_000
_SECONDS = (0.05, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)
_ML = (1, 5, 10, 25, 50, 100, 200)


class Telemetry:
    """The metrics of one process.

    Args:
        prefix: starts every name, so that those of several processes can stand in one text.
    """

    def __init__(self, prefix: str = "ray_brats") -> None:
        own = self._registry = CollectorRegistry()
        self.requests = Counter(
            f"{prefix}_requests", "Requests", ["route", "method", "status"], registry=own
        )
        self.seconds = Histogram(
            f"{prefix}_seconds", "Seconds by stage", ["stage"], registry=own, buckets=_SECONDS
        )
        self.pending = Gauge(
            f"{prefix}_pending", "Cases accepted and not answered", ["model"], registry=own
        )
        self.cases = Counter(f"{prefix}_cases", "Cases segmented", ["model"], registry=own)
        self.waiting = Gauge(f"{prefix}_waiting", "Jobs that wait for their turn", registry=own)
        self.volumes = Histogram(
            f"{prefix}_volume_ml", "Volume of a region", ["region"], registry=own, buckets=_ML
        )

    def case_done(self, model: str, answer: Answer) -> None:
        """Count a mask."""
        self.cases.labels(model).inc()
        for stage, seconds in answer.seconds.items():
            self.seconds.labels(stage).observe(seconds)
        for region, ml in answer.volumes_ml.items():
            self.volumes.labels(region).observe(ml)

    def text(self) -> bytes:
        """All metrics, in Prometheus's text format."""
        return generate_latest(self._registry)


class Trail:
    """The newest lines of this process, for whoever asks for what came after a number."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._count = 0

    def log(self, **facts: Any) -> None:
        """One line of JSON, also on standard error."""
        line = json.dumps(facts)
        sys.stderr.write(f"{line}\n")
        self._lines.append(line)
        self._count += 1

    def after(self, number: int) -> tuple[int, list[str]]:
        """How many lines there were so far, and those after the first so many that are kept."""
        new = self._count - number
        return self._count, list(self._lines)[-new:] if new > 0 else []
