"""Sidecars of a folder in one file beside them: what was read once is not read again.

A folder of 200,000 finished cases has as many sidecars, and a bucket gives some hundred a second.
The file holds their texts with what the storage says of each (etag, or size and time), as one
listing tells it: a sidecar that has changed since, or has come, is read itself.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from ray_brats.files import storage
from ray_brats.files.local import FileInfo

FILE: Final = "finished.parquet"
MANY: Final = 1000
"""Fewer sidecars that had to be read one by one are not worth a file."""
CONNECTIONS: Final = 32
_COLUMNS = ("name", "etag", "text")


def read(
    folder_uri: str, wanted: Sequence[str], files: Mapping[str, FileInfo]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """URI and content of those of the wanted sidecars that can be read.

    Args:
        folder_uri: where they are.
        wanted: their URIs.
        files: all that is in the folder, from one listing.
    """
    place, prefix = storage.join(folder_uri, FILE), folder_uri.rstrip("/") + "/"
    known = _known(place) if place in files else {}
    texts = {
        uri: text
        for uri in wanted
        for etag, text in [(known or {}).get(uri.removeprefix(prefix), ("", ""))]
        if text and etag == files[uri].etag
    }
    missing = [uri for uri in wanted if uri not in texts]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for uri, text in zip(missing, pool.map(_text_or_none, missing), strict=True):
            if text is not None:
                texts[uri] = text
    if len(missing) >= MANY and known is not None:
        names = [uri.removeprefix(prefix) for uri in texts]
        # Without it nothing is lost but time.
        with contextlib.suppress(OSError):
            _write(place, names, [files[uri].etag for uri in texts], [*texts.values()])
    for uri, text in texts.items():
        with contextlib.suppress(ValueError):
            content = json.loads(text)
            if isinstance(content, dict):
                yield uri, content


def _known(uri: str) -> dict[str, tuple[str, str]] | None:
    """Name to etag and text; None where the file is none of ours, and to be left alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # With threads, a process that ends soon afterwards aborts (pyarrow 26).
        table = pq.read_table(io.BytesIO(storage.read_bytes(uri)), use_threads=False)
        names, etags, texts = (table[column].to_pylist() for column in _COLUMNS)
    except (pa.ArrowException, OSError, KeyError):
        return None
    return dict(zip(names, zip(etags, texts, strict=True), strict=True))


def _write(uri: str, names: list[str], etags: list[str], texts: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    table = pa.table(dict(zip(_COLUMNS, (names, etags, texts), strict=True)))
    pq.write_table(table, buffer, compression="zstd")
    storage.write_bytes(uri, buffer.getvalue())


def _text_or_none(uri: str) -> str | None:
    try:
        return storage.read_bytes(uri).decode()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
