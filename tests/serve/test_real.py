"""A real case through the real page and service: from its files to its tumour on the screen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
from ray_brats import labels
from ray_brats.cases import cohort as cohorts
from ray_brats.cases import volume
from ray_brats.engine import cluster
from ray_brats.recipes.tasks import TASKS
from ray_brats.serve import deploy
from ray_brats.serve import settings as deployments
from serve.test_page import FILES, SOON_MS, check_planes, most_tumour, see

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.browser, pytest.mark.slow]
LEAST_DICE = 0.6


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service with a trained model."""
    if "RAY_BRATS_BUNDLE" not in os.environ:
        pytest.skip("RAY_BRATS_BUNDLE names a trained bundle")
    settings = deployments.ServeSettings(
        models={"default": (os.environ["RAY_BRATS_BUNDLE"],)},
        state=deployments.state_of(str(tmp_path_factory.mktemp("state"))),
    )
    port = deployments.free_port("127.0.0.1", 0)
    with cluster.running() as there:
        fitted = deployments.fitting(settings, there, None)
        with deploy.served(fitted, port=port) as url:
            yield url


# The service first: it cannot be asked from a thread that has the browser's event loop.
def test_a_real_case_goes_up_and_its_tumour_is_on_the_screen(
    url: str, browser: Any, real_data: Path, tmp_path: Path
) -> None:
    case = cohorts.find(str(real_data / "brats2018" / "HGG")).cases[0]
    assert case.segmentation is not None
    said: list[str] = []
    asked: list[str] = []
    page = browser.new_context(accept_downloads=True).new_page()
    page.set_default_timeout(SOON_MS)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.locator("#files").set_input_files([case.images[name] for name in FILES])
    see(page, "#scan")
    page.click("#segment")
    page.locator("#result").wait_for(timeout=120_000)
    see(page, "#status", "Done: the mask is over the scan.")
    with page.expect_download() as download:
        page.click("#download")
    mask_file = tmp_path / "mask.nii.gz"
    download.value.save_as(mask_file)
    found = volume.read_mask(str(mask_file), TASKS["gli-2018"])
    expert = volume.read_mask(case.segmentation, TASKS["gli-2018"]) > labels.BACKGROUND
    tumour = found > labels.BACKGROUND
    dice = 2 * np.count_nonzero(tumour & expert) / (tumour.sum() + expert.sum())
    assert dice >= LEAST_DICE, "the model or the page misplaces the tumour"
    images = {name: volume.read(case.images[name]).voxels_HWD for name in FILES}
    check_planes(page, most_tumour(found), label=found, images=images)
    at = most_tumour(found)
    page.locator("#opacity").fill("0")
    check_planes(page, at, label=found, images=images, opacity=0)
    assert [text for text in said if "GL Driver Message" not in text] == []
    assert [one for one in asked if not one.startswith((url, f"blob:{url}", "data:"))] == []
