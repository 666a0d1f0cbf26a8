"""Fetches NiiVue, the optional 3-D viewer, into the page: `python -m ray_brats.serve.niivue`.

One pinned version, by name, through `npm pack`: the registry is whichever npm is set up with, and
the tarball must have the sha512 that is written here. The page works without it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from importlib import resources
from pathlib import Path
from typing import Final

from ray_brats import progress
from ray_brats.errors import ArtefactError, UsageError

PACKAGE: Final = "@niivue/niivue"
VERSION: Final = "0.69.0"
INTEGRITY: Final = "sha512-" + (
    "YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA=="
)
FILES: Final = {
    "package/dist/index.js": "niivue.js",
    "package/package.json": "niivue.package.json",
    "package/README.md": "niivue.README.md",
}
"""Member of the tarball to file of the vendor folder; the last two say whose work it is."""
_TIMEOUT_S: Final = 300


def vendor_folder() -> Path:
    """Where the page looks for what others wrote."""
    return Path(str(resources.files("ray_brats.serve"))) / "page" / "vendor"


def fetch(folder: Path) -> Path:
    """Fetch the pinned version into `folder`; return the path of its module.

    Raises:
        UsageError: there is no npm, or it could not get the package.
        ArtefactError: what came is not what was pinned.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise UsageError(
            "npm was not found, and NiiVue comes from its registry. Install Node.js, or go on "
            "without: the page then shows the three planes only"
        )
    with tempfile.TemporaryDirectory() as scratch:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", scratch]
        try:
            done = subprocess.run(
                command,
                cwd=scratch,
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise UsageError(
                f"npm did not get {PACKAGE} {VERSION} within {_TIMEOUT_S} s: is its registry "
                "reachable (`npm ping`)?"
            ) from error
        packed = list(Path(scratch).glob("*.tgz"))
        if done.returncode or len(packed) != 1:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UsageError(
                f"npm could not get {PACKAGE} {VERSION} ({last}): is its registry reachable "
                "(`npm ping`)?"
            )
        return unpack(packed[0].read_bytes(), folder)


def unpack(tarball: bytes, folder: Path) -> Path:
    """Check a tarball and put its `FILES` into `folder`, the module last; return its path.

    Raises:
        ArtefactError: another tarball than the pinned one.
    """
    digest = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    if f"sha512-{digest}" != INTEGRITY:
        raise ArtefactError(
            f"the tarball of {PACKAGE} {VERSION} has sha512-{digest}, expected {INTEGRITY}: it is "
            "not the one that was checked. Nothing was installed; ask whoever runs the registry"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(tarball), mode="r:gz") as archive:
        for member, name in reversed(FILES.items()):
            found = archive.extractfile(member)
            if found is None:
                raise ArtefactError(f"{PACKAGE} {VERSION} has no file {member}")
            partial = folder / f".{name}.tmp"
            partial.write_bytes(found.read())
            partial.replace(folder / name)
    return folder / FILES["package/dist/index.js"]


def main() -> int:
    """Fetch it into the installed page; the exit status is 0, or 2 where that was impossible."""
    try:
        fetch(vendor_folder())
    except (UsageError, ArtefactError, OSError) as error:
        progress.say(f"ray-brats: {error}")
        return 2
    progress.say(f"NiiVue {VERSION} is in the page: its 3-D button works from the next reload on.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
