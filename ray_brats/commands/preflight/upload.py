"""What `ray job submit --working-dir` would upload: too much, or not what the job needs.

Ray zips the folder without what .gitignore and .rayignore name and refuses more than 100 MiB.
The walk is Ray's own, so that the answer is that of the Ray that is installed (its version is
pinned exactly).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ray._private import ray_constants
from ray._private.runtime_env import packaging

from ray_brats.commands.preflight.storage import Check, check_row
from ray_brats.errors import UsageError

LIMIT_BYTES = int(ray_constants.DASHBOARD_CLIENT_MAX_SIZE)
NEEDED = ("ray_brats", "jobs")
"""What a job imports and runs, where the folder has it."""
NAMED = 5
MIB = 1 << 20


def uploaded(folder: Path) -> dict[Path, int]:
    """Every file that would be uploaded, relative to the folder, and its bytes."""
    sizes: dict[Path, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(folder)] = path.stat().st_size

    respected = os.environ.get(ray_constants.RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    left_out = ray_constants.get_runtime_env_default_excludes()
    packaging._dir_travel(
        folder,
        [packaging._get_excludes(folder, left_out)] if left_out else [],
        note,
        include_gitignore=respected,
        logger=logging.getLogger(__name__),
    )
    return sizes


def checks(folder: str) -> list[Check]:
    """Size of the upload, and needed files that are hidden from it.

    Raises:
        UsageError: no such folder.
    """
    root = Path(folder).expanduser().absolute()
    if not root.is_dir():
        raise UsageError(f"--working-dir {folder}: expected a folder, the one that is submitted")
    sizes = uploaded(root)
    return [_size(sizes), _hidden(root, sizes)]


def _size(sizes: dict[Path, int]) -> Check:
    whole = sum(sizes.values())
    found = f"{len(sizes)} files, {whole / MIB:.1f} MiB"
    if whole <= LIMIT_BYTES:
        return check_row("upload: size", "ok", found)
    parts: dict[str, int] = {}
    for path, size in sizes.items():
        name = "/".join(path.parts[:2])
        parts[name] = parts.get(name, 0) + size
    largest = sorted(parts.items(), key=lambda item: -item[1])[:NAMED]
    parts_named = ", ".join(f"{name} {size / MIB:.1f} MiB" for name, size in largest)
    remedy = f"name these in .rayignore, or put them into a bucket or the image: {parts_named}"
    return check_row("upload: size", "fail", f"{found}; Ray takes 100 MiB", remedy)


def _hidden(root: Path, sizes: dict[Path, int]) -> Check:
    needed = {
        path.relative_to(root)
        for name in NEEDED
        for path in (root / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    hidden = sorted(needed - set(sizes))
    if not hidden:
        return check_row("upload: needed files", "ok", f"{len(needed)} of {len(needed)} go along")
    names = ", ".join(map(str, hidden[:NAMED])) + (" …" if len(hidden) > NAMED else "")
    remedy = (
        "allow them with a line !PATH in .gitignore or .rayignore, or install ray-brats in the "
        "cluster's image"
    )
    return check_row("upload: needed files", "fail", f"{len(hidden)} ignored: {names}", remedy)
