#!/usr/bin/env python3
"""Make the pictures of the manual, of phantoms only: `python .ci/pictures.py DEMO`.

DEMO is what `ray-brats demo --out DEMO` wrote. A Chromium is needed; the page is that of a real
service with the demo's model. The pictures go into ray_brats/docs/pictures, at most `MOST_BYTES`
together.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from ray_brats.files import ledger

PROGRAM = (sys.executable, "-m", "ray_brats.cli")
PICTURES = Path(__file__).parents[1] / "ray_brats" / "docs" / "pictures"
MOST_BYTES = 200 << 10
GREYS, COLOURS = 64, 64
GREY = 12
"""Channels that differ by no more are those of a grey pixel."""
WIDTH_PX = 900
REPORT_PX = (1000, 850)
PAGE_PX = (1180, 1000)
SOON_MS = 120_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def keep(name: str, picture: Image.Image) -> None:
    """Write a picture with few colours, no wider than a page of text."""
    if picture.width > WIDTH_PX:
        height = round(picture.height * WIDTH_PX / picture.width)
        picture = picture.resize((WIDTH_PX, height), Image.Resampling.LANCZOS)
    picture = picture.convert("RGB")
    few = picture.quantize(palette=palette_of(picture), dither=Image.Dither.NONE)
    few.save(PICTURES / f"{name}.png", optimize=True)


def palette_of(picture: Image.Image) -> Image.Image:
    """Even greys, and the colours that cover what is coloured: scans stay grey, thin lines red."""
    pixels = np.asarray(picture)
    coloured = pixels[np.ptp(pixels, axis=-1) > GREY]
    colours = []
    if coloured.size:
        strip = Image.fromarray(coloured[np.newaxis])
        few = strip.quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
        colours = (few.getpalette() or [])[: 3 * COLOURS]
    greys = np.linspace(0, 255, GREYS).round().astype(int)
    palette = Image.new("P", (1, 1))
    palette.putpalette([*np.repeat(greys, 3).tolist(), *colours])
    return palette


def show(demo: Path) -> None:
    """The worst of the demo's held-out cases, its own mask beside the model's."""
    rows = ledger.read_table(str(demo / "report" / "metrics.parquet"))
    first = rows[0]["region"]
    case_id = min(rows, key=lambda row: (row["region"] != first, row["dice"]))["case_id"]
    mask = demo / "predictions" / f"{case_id}.nii.gz"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "show.png"
        case = demo / "cohort" / case_id
        subprocess.run([*PROGRAM, "show", case, path, "--prediction", mask], check=True)
        with Image.open(path) as picture:
            keep("show", picture)


def shot(page: Any) -> Image.Image:
    """What the window shows."""
    return Image.open(io.BytesIO(page.screenshot()))


def report(browser: Any, demo: Path) -> None:
    """The head of the demo's report."""
    page = browser.new_page(viewport=dict(zip(("width", "height"), REPORT_PX, strict=True)))
    page.goto((demo / "report" / "report.html").absolute().as_uri())
    keep("report", shot(page))
    page.close()


@contextlib.contextmanager
def service(demo: Path) -> Iterator[str]:
    """A service with the demo's model; yields its address."""
    bundle = demo / "run" / "bundle"
    with tempfile.TemporaryDirectory() as state:
        running = subprocess.Popen(
            [*PROGRAM, "serve", "--bundle", bundle, "--port", "0", "--state", state],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert running.stderr is not None
        try:
            ready = (re.search(r"ready at (\S+)", line) for line in running.stderr)
            yield next(match[1] for match in ready if match)
        finally:
            running.send_signal(signal.SIGINT)
            running.communicate(timeout=SOON_MS / 1000)


def page(browser: Any, url: str) -> None:
    """The page of a service, with its phantom segmented."""
    page = browser.new_page(viewport=dict(zip(("width", "height"), PAGE_PX, strict=True)))
    page.set_default_timeout(SOON_MS)
    page.goto(url)
    page.click("#phantom")
    page.click("#segment")
    expect(page.locator("#result")).to_be_visible(timeout=SOON_MS)
    page.mouse.move(0, 0)
    page.locator("#scan").evaluate("scan => scan.scrollIntoView()")
    keep("page", shot(page))
    page.close()


def main(demo: Path) -> None:
    """All three; refuses what is too large for the manual."""
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    if binary is None:
        sys.exit("no Chromium on this machine (Debian: apt-get install chromium)")
    PICTURES.mkdir(exist_ok=True)
    show(demo)
    with service(demo) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        report(browser, demo)
        page(browser, url)
        browser.close()
    sizes = {path.name: path.stat().st_size for path in sorted(PICTURES.glob("*.png"))}
    for name, size in sizes.items():
        print(f"{name}: {size / 1024:.0f} KiB")
    if sum(sizes.values()) > MOST_BYTES:
        sys.exit(f"together more than {MOST_BYTES >> 10} KiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
