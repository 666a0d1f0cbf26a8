"""NiiVue, the page's 3-D viewer: from the installed `ipyniivue`, or fetched through npm.

`ipyniivue` is NiiVue for notebooks, with the whole viewer in one file of its wheel; that file is
read and `ipyniivue` never imported. `python -m ray_brats.serve.niivue` fetches NiiVue itself into
the page, which then comes first: one pinned version through `npm pack`, whichever registry npm is
set up with. Each must have the hash that is written here. The page works without any.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
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
MODULE: Final = "niivue.js"
FILES: Final = {
    "package/dist/index.js": MODULE,
    "package/package.json": "niivue.package.json",
    "package/README.md": "niivue.README.md",
}
"""Member of the tarball to file of the vendor folder; the last two say whose work it is."""
_TIMEOUT_S: Final = 300
WHEEL: Final = "ipyniivue"
WHEEL_VERSION: Final = "2.4.4"
"""The version of `ipyniivue`; NiiVue is 0.65.0 in it."""
WIDGET_SHA256: Final = "922951141f03da6294cc74a7c520d694a9723733ee25d997b85da8136057a96b"
EXPORTS: Final = b"export{t2 as Niivue,VA as NVImage};\n"
"""The file exports a widget alone; these are its own names of the classes, which the hash holds."""


def vendor_folder() -> Path:
    """The page's folder for what others wrote."""
    return Path(str(resources.files("ray_brats.serve"))) / "page" / "vendor"


def module() -> bytes | None:
    """The JavaScript module with NiiVue's classes; None where there is neither source of it."""
    fetched = vendor_folder() / MODULE
    if fetched.is_file():
        return fetched.read_bytes()
    package = importlib.util.find_spec(WHEEL)
    if package is None or package.origin is None:
        return None
    widget = Path(package.origin).parent / "static" / "widget.js"
    content = widget.read_bytes() if widget.is_file() else b""
    if hashlib.sha256(content).hexdigest() != WIDGET_SHA256:
        return None
    return content + EXPORTS


def fetch(folder: Path) -> Path:
    """Fetch the pinned version into `folder`; return the path of its module.

    Raises:
        UsageError: there is no npm, or it could not get the package.
        ArtefactError: what came is not what was pinned.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise UsageError(
            "npm was not found, and NiiVue comes from its registry. Install Node.js, or "
            f"`pip install {WHEEL}=={WHEEL_VERSION}`, which has NiiVue too, or go on without: the "
            "page then shows the three planes only"
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
            file = archive.extractfile(member)
            if file is None:
                raise ArtefactError(f"{PACKAGE} {VERSION} has no file {member}")
            partial = folder / f".{name}.tmp"
            partial.write_bytes(file.read())
            partial.replace(folder / name)
    return folder / MODULE


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
