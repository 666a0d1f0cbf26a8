"""The service's end as whoever started it reads it; under Ray Serve: `test_ray`, `test_chaos`."""

from __future__ import annotations

import subprocess
import sys

DRAINED = """
from ray_brats.serve import deploy

class Answer:
    def __init__(self, left):
        self.left = left
    def result(self, timeout_s):
        return self.left

class Ingress:
    left = [2, 2, 1, 0]
    @property
    def end(self):
        return self
    def remote(self):
        return Answer(self.left.pop(0))

deploy._drain(Ingress(), 30)
"""


def test_how_many_calls_are_waited_for_is_told_each_time_that_it_changes() -> None:
    """In a process of its own: what silences Ray redirects the stream itself."""
    done = subprocess.run(
        [sys.executable, "-c", DRAINED], capture_output=True, text=True, check=True
    )
    told = [line for line in done.stderr.splitlines() if line.startswith("serve: ")]
    assert told == [f"serve: {count} call(s) wait for their answer" for count in (2, 1)]
