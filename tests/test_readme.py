"""The README's first screen is what a new user runs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_exactly_two_bash_blocks_of_one_line_each() -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    assert all(len(block.splitlines()) == 1 for block in blocks)
    assert "ray-brats demo" in blocks[0]
    assert "pytest" in blocks[1]


def test_files_it_names_exist() -> None:
    for name in re.findall(r"\b(?:jobs|tests|ray_brats|cluster)/[\w./]+\.\w+", TEXT):
        assert (ROOT / name).exists(), name
