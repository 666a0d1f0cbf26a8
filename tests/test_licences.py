"""What a wheel carries besides code: the licences, the types, the manual and the page."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1]
PACKAGE = SOURCE / "ray_brats"
LICENCES = ["ray_brats/LICENSE", "ray_brats/starter/LICENSE.md"]


def test_the_licence_is_apaches_whole_text() -> None:
    text = (PACKAGE / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_starters_licence_names_all_that_its_card_asks_to_cite() -> None:
    text = (PACKAGE / "starter" / "LICENSE.md").read_text()
    for source in ("1993–2024, 2015", "170117, 2017", "arXiv:1811.02629", "arXiv:2107.02314"):
        assert source in text


@pytest.mark.slow
def test_a_wheel_carries_licences_types_the_manual_and_the_page(tmp_path: Path) -> None:
    command = ("-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(SOURCE))
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("ray_brats-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (info,) = (name.removesuffix("/METADATA") for name in names if name.endswith("/METADATA"))
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        for name in LICENCES:
            assert archive.read(name) == archive.read(f"{info}/licenses/{name}")
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == LICENCES
    carried = [PACKAGE / "py.typed", *(PACKAGE / "docs").rglob("*.*")]
    carried += (PACKAGE / "serve" / "page").glob("*.*")
    assert len(carried) > 25
    assert {path.relative_to(SOURCE).as_posix() for path in carried} <= names
