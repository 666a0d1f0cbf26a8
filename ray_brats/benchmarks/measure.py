"""How benchmarks measure: alternating repeats on one core, medians, and the memory of a process."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from tyro.conf import arg

SetOption = Annotated[
    tuple[str, ...],
    arg(name="set", aliases=("--settings",), metavar="PART.FIELD=VALUE …"),
]
"""Fields of the recipe, as commands take them; `--settings` is their earlier name here."""

T = TypeVar("T")
_WATCH_SECONDS = 0.5


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """This process and all its threads stay on one core inside."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def alternating(
    contenders: Mapping[str, Callable[[T], Any]], inputs: Sequence[T], repeats: int
) -> dict[str, float]:
    """Median CPU seconds of each contender an input; each input goes to all in turn.

    CPU time of the whole process: on one core it is the wall time of a quiet machine, and it
    stays so on a busy one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for item in inputs if repeat else inputs[:1]:
            for name, contender in contenders.items():
                began = time.process_time()
                contender(item)
                if repeat:  # the first round fills caches and finishes imports
                    seconds[name].append(time.process_time() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_mib(work: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """Peak memory of a fresh process that does the work, and what it had before, in MiB."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak, work, arguments).result()


def _peak(work: Callable[..., Any], arguments: Sequence[Any]) -> tuple[float, float]:
    before = max_rss_mib()
    work(*arguments)
    return max_rss_mib(), before


def max_rss_mib() -> float:
    """Most memory that this process ever had, in MiB; getrusage would count its parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def rss_mib() -> float:
    """Memory that this process has now, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def ratio(above: float | None, below: float | None) -> float | None:
    """A quotient to three digits, None where a part is missing."""
    return None if above is None or below is None else float(f"{above / below:.3g}")


class Watch(threading.Thread):
    """Looks at this process's memory twice a second, while the block inside runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mib = [rss_mib()]
        self._end = threading.Event()

    def run(self) -> None:
        """Sample until the block ends."""
        while not self._end.wait(_WATCH_SECONDS):
            self.mib.append(rss_mib())

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()

    def at(self, share: float) -> float:
        """Memory after a share of the time, in MiB."""
        return self.mib[int(share * (len(self.mib) - 1))]
