"""Files and folders of this machine that appear whole: made beside their place, then renamed."""

from __future__ import annotations

import contextlib
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

_REMAINS = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""Name of what was not renamed into place."""


@contextlib.contextmanager
def renamed_into_place(target: Path) -> Iterator[Path]:
    """A temporary name beside a target, which what is made there takes over at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def remove_remains(paths: Iterable[Path]) -> None:
    """Delete those of the files that a killed process left under temporary names."""
    for path in paths:
        if _REMAINS.fullmatch(path.name):
            path.unlink(missing_ok=True)
