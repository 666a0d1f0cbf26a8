"""Many small objects in little memory: compressed some hundred at a time, decoded where read.

A case of a cohort, a file of a listing or a row of a ledger takes some kilobytes as Python objects,
of which nearly all stands in its neighbours too. Packed, a case takes about a hundred bytes, so
that the memory of a driver does not follow the number of cases; reading one costs microseconds.
"""

from __future__ import annotations

import bisect
import contextlib
import gc
import heapq
import itertools
import operator
import pickle
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from typing import Any, Final, Generic, TypeVar, overload

T = TypeVar("T")
V = TypeVar("V")
TOGETHER: Final = 256
"""Objects that are compressed together."""
_NEAR: Final = 16
"""Groups of them that are kept decoded, since neighbours are asked for one after another."""
_OFTEN: Final = 4
"""Who decodes all groups so often does not ask for neighbours: then all are kept."""
_RUN: Final = 16_384
"""Objects that are in memory while they are sorted."""


class _Groups(Generic[T]):
    """Picklable values, compressed; those that were read last are kept as they are."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []
        self._near: OrderedDict[int, T] = OrderedDict()
        self._misses = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> list[bytes]:
        return self._packed

    def __setstate__(self, packed: list[bytes]) -> None:
        self.__init__()  # type: ignore[misc]
        self._packed = packed

    def __len__(self) -> int:
        return len(self._packed)

    def append(self, value: T) -> None:
        self._packed.append(zlib.compress(pickle.dumps(value, protocol=5), 1))

    def decoded(self, number: int) -> T:
        value: T = pickle.loads(zlib.decompress(self._packed[number]))
        return value

    def near(self, number: int) -> T:
        with self._lock:
            if number in self._near:
                self._near.move_to_end(number)
                return self._near[number]
        value = self.decoded(number)
        with self._lock:
            self._near[number] = value
            self._misses += 1
            if len(self._near) > _NEAR and self._misses < _OFTEN * len(self._packed):
                self._near.popitem(last=False)
        return value


class Packed(Sequence[T]):
    """A sequence that only becomes longer; what it gives are copies of what was put in.

    Args:
        items: picklable, read once.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._groups, self._last = _Groups[list[T]](), list[T]()
        self.extend(items)

    def extend(self, items: Iterable[T]) -> None:
        """Put more at the end."""
        for item in items:
            self.append(item)

    def append(self, item: T) -> None:
        """Put one more at the end."""
        self._last.append(item)
        if len(self._last) == TOGETHER:
            self._groups.append(self._last)
            self._last = []

    def groups(self, size: int) -> Iterator[list[T]]:
        """All items, so many at a time."""
        left = iter(self)
        while group := list(itertools.islice(left, size)):
            yield group

    def __len__(self) -> int:
        return len(self._groups) * TOGETHER + len(self._last)

    def __iter__(self) -> Iterator[T]:
        for number in range(len(self._groups)):
            yield from self._groups.decoded(number)
        yield from self._last

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> list[T]: ...
    def __getitem__(self, at: int | slice) -> T | list[T]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        number = at + len(self) if at < 0 else at
        if not 0 <= number < len(self):
            raise IndexError(at)
        group, place = divmod(number, TOGETHER)
        return (self._last if group == len(self._groups) else self._groups.near(group))[place]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, itertools.islice(self, 3)))
        return f"Packed({shown}{', …' if len(self) > 3 else ''})"


class Table(Mapping[str, V]):
    """Names to values, sorted by name.

    Looking names up takes little memory where each is near the one before; in any other order it
    takes what a dictionary does.

    Args:
        items: names with values, read once; of equal names the last one counts.
    """

    def __init__(self, items: Iterable[tuple[str, V]] = ()) -> None:
        pairs = iter(items)
        if unsorted := self._fill(pairs):
            everything = Packed(itertools.chain(self.pairs(), unsorted, pairs))
            self._fill(_last_of_each(in_order(everything, _name_of)))

    def _fill(self, pairs: Iterator[tuple[str, V]]) -> list[tuple[str, V]]:
        """Take pairs as long as they are sorted; those that were read and are not come back."""
        self._groups, self._firsts, self._count = _Groups[dict[str, V]](), list[str](), 0
        last: list[str] = []
        while group := list(itertools.islice(pairs, TOGETHER)):
            names = [name for name, _ in group]
            if any(map(operator.ge, [*last, *names], [*last, *names][1:])):
                return group
            self._groups.append(dict(group))
            self._firsts.append(names[0])
            self._count, last = self._count + len(group), names[-1:]
        return []

    def __getitem__(self, name: str) -> V:
        at = bisect.bisect_right(self._firsts, name) - 1
        if at < 0:
            raise KeyError(name)
        return self._groups.near(at)[name]

    def __contains__(self, name: object) -> bool:
        # The mixin's way by an exception takes three times as long.
        at = bisect.bisect_right(self._firsts, name) - 1 if isinstance(name, str) else -1
        return at >= 0 and name in self._groups.near(at)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.pairs())

    def pairs(self) -> Iterator[tuple[str, V]]:
        """Names with values, in order."""
        for number in range(len(self._groups)):
            yield from self._groups.decoded(number).items()

    def items(self) -> ItemsView[str, V]:
        """Names with values, each group decoded once."""
        return _Items(self)

    def values(self) -> ValuesView[V]:
        """Values by name, each group decoded once."""
        return _Values(self)


class _Items(ItemsView[str, V]):
    _mapping: Table[V]

    def __iter__(self) -> Iterator[tuple[str, V]]:
        return self._mapping.pairs()


class _Values(ValuesView[V]):
    _mapping: Table[V]

    def __iter__(self) -> Iterator[V]:
        return (value for _, value in self._mapping.pairs())


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No search for cycles meanwhile: where many small objects come and go it finds none.

    It takes the sixth part of the time of a cohort of 200,000 cases.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def in_order(items: Iterable[T], name_of: Callable[[T], str]) -> Packed[T]:
    """Items sorted by name, of equal names in their order; only some are in memory at a time."""
    if isinstance(items, Packed) and all(
        name_of(one) <= name_of(other) for one, other in itertools.pairwise(items)
    ):
        return items
    left = iter(items)
    runs = []
    while run := sorted(itertools.islice(left, _RUN), key=name_of):
        runs.append(Packed(run))
    return runs[0] if len(runs) == 1 else Packed(heapq.merge(*runs, key=name_of))


def _last_of_each(pairs: Iterable[tuple[str, V]]) -> Iterator[tuple[str, V]]:
    """Of pairs with equal names, which stand together, the last one."""
    kept: list[tuple[str, V]] = []
    for pair in pairs:
        if kept and kept[-1][0] != pair[0]:
            yield kept[-1]
        kept = [pair]
    yield from kept


def _name_of(pair: tuple[str, Any]) -> str:
    return pair[0]
