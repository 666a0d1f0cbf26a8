"""Elements of one DICOM file, read as if the file were hostile.

No pixel is read, of no element more than is asked for, and of a whole header no more than
`HEADER_BYTES`, whatever lengths it claims: values that nobody asks for are passed over. What cannot
be read is a sentence. pydicom neither warns nor logs meanwhile, and no sentence quotes a value.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_brats.errors import CaseRejected

HEADER_BYTES = 64 << 20
"""Most of a file that is taken for its header: that of a thousand frames has some 10 MB."""
NOT_DICOM = "neither a DICOM nor a NIfTI file"
DAMAGED = "a damaged or truncated DICOM file"
TOO_LONG = (
    f"deflated, or with a header of more than {HEADER_BYTES >> 20} MB: neither is read; "
    "`dcmconv +te` writes it plainly"
)
_MARK, _MARK_AT = b"DICM", 128
_TEXT_LENGTH = 256
_META = {"SOPClassUID": "MediaStorageSOPClassUID", "TransferSyntaxUID": "TransferSyntaxUID"}
"""Elements that stand before the others, under a name of their own."""

Vector = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Elements:
    """The elements of a file that were asked for."""

    values: Mapping[str, tuple[str, ...]]
    """Keyword to values as texts without what ends lines; none where it is absent or damaged."""
    length: int
    """Bytes of the file before the element of its pixels."""

    def text(self, keyword: str) -> str:
        """All values of an element, or ""."""
        return "\\".join(filter(None, self.values[keyword]))[:_TEXT_LENGTH]

    def vector(self, keyword: str, length: int) -> Vector | None:
        """So many numbers, none of them absurd; else None."""
        try:
            numbers = tuple(float(text) for text in self.values[keyword])
        except ValueError:
            return None
        is_sound = len(numbers) == length and all(abs(number) < 1e6 for number in numbers)
        return numbers if is_sound else None

    def number(self, keyword: str) -> float | None:
        """One number, or None."""
        numbers = self.vector(keyword, 1)
        return numbers[0] if numbers else None

    def integer(self, keyword: str) -> int | None:
        """One number without its fraction, or None."""
        number = self.number(keyword)
        return None if number is None else int(number)


class _TooLong(ValueError):
    """An element promises more than any header holds."""


class _Frugal(io.BufferedReader):
    """A file of which no more than so many bytes are ever taken."""

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self._left = HEADER_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        # What is deflated is read as a whole, and may inflate to anything.
        if size is None or not 0 <= size <= self._left:
            raise _TooLong
        self._left -= size
        return super().read(size)


def is_dicom(path: Path) -> bool:
    """Whether a file has the mark of DICOM."""
    try:
        with path.open("rb") as file:
            return file.read(_MARK_AT + len(_MARK))[_MARK_AT:] == _MARK
    except OSError:
        return False


def read(path: Path, keywords: Sequence[str]) -> Elements:
    """Some elements of a file of any name, and `TransferSyntaxUID`.

    Raises:
        CaseRejected: no DICOM, damaged, or with more of a header than any file has.
    """
    from pydicom.errors import InvalidDicomError

    try:
        with _quiet():
            return _read(path, keywords)
    except _TooLong as error:
        raise CaseRejected(TOO_LONG) from error
    except InvalidDicomError as error:
        raise CaseRejected(NOT_DICOM) from error
    except _unreadable() as error:
        raise CaseRejected(DAMAGED) from error


def _read(path: Path, keywords: Sequence[str]) -> Elements:
    import pydicom

    tags = _tags(tuple(keywords))
    with _Frugal(io.FileIO(path)) as file:
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[*tags])
        length = file.tell()
    values = {keyword: _values(dataset, keyword) for keyword in keywords}
    for keyword, of_meta in _META.items():
        values[keyword] = values.get(keyword) or _values(dataset.file_meta, of_meta)
    return Elements(values=values, length=length)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """pydicom neither warns nor logs inside: it quotes values, and values are of patients."""
    from pydicom import config

    settings, logger = config.settings, config.logger
    before = settings.reading_validation_mode, logger.disabled
    settings.reading_validation_mode, logger.disabled = config.IGNORE, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        settings.reading_validation_mode, logger.disabled = before


@functools.cache
def _unreadable() -> tuple[type[Exception], ...]:
    """What pydicom raises where bytes are none of DICOM."""
    from pydicom.errors import BytesLengthException

    of_bytes = (OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, NameError)
    others = (NotImplementedError, ArithmeticError, RecursionError, struct.error)
    return (*of_bytes, *others, BytesLengthException)


@functools.lru_cache(8)
def _tags(keywords: tuple[str, ...]) -> tuple[Any, ...]:
    from pydicom.tag import Tag

    return tuple(Tag(keyword) for keyword in keywords)


def _values(dataset: Any, keyword: str) -> tuple[str, ...]:
    try:
        value = dataset.get(keyword)
    except _unreadable():
        return ()
    if value is None:
        return ()
    several = not isinstance(value, str | bytes) and isinstance(value, Sequence)
    parts = value if several else [value]
    return tuple(" ".join(str(part).split())[:_TEXT_LENGTH] for part in parts)
