"""Sidecars of a folder in one file beside them: what was read once is not read again.

A folder of 200,000 finished cases has as many sidecars, and a bucket gives some hundred a second.
The file holds their texts with what the storage says of each (etag, or size and time), as one
listing tells it: a sidecar that has changed since, or has come, is read itself.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from ray_brats.files import storage
from ray_brats.files.local import FileInfo
from ray_brats.files.packed import TOGETHER, Packed, Table

if TYPE_CHECKING:
    import pyarrow.parquet as pq

FILE: Final = "finished.parquet"
MANY: Final = 1000
"""Fewer sidecars that had to be read one by one are not worth a file."""
CONNECTIONS: Final = 32
_COLUMNS = ("name", "etag", "text")
_ROW_GROUP = 8192
_Told = tuple[str, str]
"""Etag and text of a sidecar."""


class Sidecars:
    """The sidecars of a folder, to be read some at a time.

    Args:
        folder_uri: where they are.
        files: all that is in the folder, from one listing.
    """

    def __init__(self, folder_uri: str, files: Mapping[str, FileInfo]) -> None:
        self._folder, self._files = folder_uri, files
        self._place = storage.join(folder_uri, FILE)
        self._prefix = folder_uri.rstrip("/") + "/"
        known = _known(self._place) if self._place in files else Table[_Told]()
        self._is_ours, self._known = known is not None, known or Table[_Told]()
        self._read = Packed[tuple[str, _Told]]()
        self._singly = 0

    def read(self, wanted: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """URI and content of those of the wanted sidecars, each there, that can be read."""
        told = {uri: self._as_before(uri) for uri in wanted}
        missing = [uri for uri, text in told.items() if text is None]
        self._singly += len(missing)
        if missing:
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                told |= zip(missing, pool.map(_text_or_none, missing), strict=True)
        texts = [(uri, text) for uri, text in told.items() if text is not None]
        alone = set(missing)
        self._read.extend(
            (uri.removeprefix(self._prefix), (self._files[uri].etag, text))
            for uri, text in texts
            if uri in alone
        )
        for uri, text in texts:
            with contextlib.suppress(ValueError):
                content = json.loads(text)
                if isinstance(content, dict):
                    yield uri, content

    def _as_before(self, uri: str) -> str | None:
        etag, text = self._known.get(uri.removeprefix(self._prefix), ("", None))
        return text if etag == self._files[uri].etag else None

    def keep(self) -> None:
        """Write the file, where many that it does not hold were read."""
        if self._singly >= MANY and self._is_ours:
            # Without it nothing is lost but time.
            with contextlib.suppress(OSError):
                _write(self._place, Packed(itertools.chain(self._unchanged(), self._read)))

    def _unchanged(self) -> Iterator[tuple[str, _Told]]:
        for name, told in self._known.items():
            file = self._files.get(self._prefix + name)
            if file and file.etag == told[0]:
                yield name, told


def _known(uri: str) -> Table[_Told] | None:
    """Name to etag and text; None where the file is none of ours, and to be left alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return Table(_rows(pq.ParquetFile(io.BytesIO(storage.read_bytes(uri)))))
    except (pa.ArrowException, OSError, KeyError, TypeError):
        return None


def _rows(file: pq.ParquetFile) -> Iterator[tuple[str, _Told]]:
    # With threads, a process that ends soon afterwards aborts (pyarrow 26).
    for batch in file.iter_batches(TOGETHER, use_threads=False):
        names, etags, texts = (batch[column].to_pylist() for column in _COLUMNS)
        yield from zip(names, zip(etags, texts, strict=True), strict=True)


def _write(uri: str, rows: Packed[tuple[str, _Told]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer, schema = io.BytesIO(), pa.schema(dict.fromkeys(_COLUMNS, pa.string()))
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        for group in rows.groups(_ROW_GROUP):
            columns = zip(*((name, *told) for name, told in group), strict=True)
            writer.write_batch(pa.record_batch([*map(pa.array, columns)], schema))
    storage.write_bytes(uri, buffer.getbuffer())


def _text_or_none(uri: str) -> str | None:
    try:
        return storage.read_bytes(uri).decode()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
