"""`score --endpoint` against a service that is played: what it takes and what it refuses."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest
import shapes
from serve_doubles import SERVED, SMOKE, Double, files_of, listening, predictor

from ray_brats import labels
from ray_brats.cases import cohort
from ray_brats.cases.case import Cohort
from ray_brats.cases.volume import encode
from ray_brats.errors import UsageError
from ray_brats.files import ledger, ownership
from ray_brats.recipes import tasks
from ray_brats.recipes.tasks import TASKS
from ray_brats.stages import remote as endpoint

GLI_2020 = tasks.TASKS["gli-2020"]


def remote(made_by: str) -> endpoint.Remote:
    """A service whose masks tell these bundles."""
    told = {f"X-Ray-Brats-{region}-ML": "1.5" for region in ("WT", "TC", "ET")}
    headers = {**told, "X-Ray-Brats-Bundle": made_by}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=b"m", headers=headers))
    return endpoint.Remote(
        client=httpx.Client(base_url="http://played", transport=transport),
        model="default",
        task=GLI_2020,
        integers={GLI_2020.name: GLI_2020.integers},
        recipe=SMOKE,
        identity=SERVED.card["identity"],
    )


def test_masks_of_other_bundles_are_not_taken_for_those_asked_for(
    cohort_folder: Path, tmp_path: Path
) -> None:
    found, out = cohort.find(str(cohort_folder)), str(tmp_path)
    # The service was updated after the first look at it: asking again would change nothing.
    assert endpoint.score_through(remote("0" * 64), found, out).counts == {"error": 5}
    assert {row["attempts"] for row in ledger.read_table(f"{out}/scores.parquet")} == {1}
    assert not list(tmp_path.glob("*.nii.gz"))
    summary = endpoint.score_through(remote(SERVED.card["identity"]["bundles"][0]), found, out)
    assert (summary.counts, summary.processed) == ({"ok": 5}, 5)
    assert {row["wt_ml"] for row in ledger.read_table(f"{out}/scores.parquet")} == {1.5}


def test_ctrl_c_ends_the_knocking_at_a_busy_service(cohort_folder: Path, tmp_path: Path) -> None:
    asked = threading.Event()

    def busy(_: httpx.Request) -> httpx.Response:
        asked.set()
        return httpx.Response(429, headers={"Retry-After": "600"})

    client = httpx.Client(base_url="http://played", transport=httpx.MockTransport(busy))
    service = dataclasses.replace(remote(""), client=client)

    def press() -> None:
        assert asked.wait(60)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        endpoint.score_through(service, cohort.find(str(cohort_folder)), str(tmp_path))
    assert time.monotonic() - began < 20
    left = [path.name for path in tmp_path.glob("*.json")]
    assert left == [ownership.BEGUN], "no case was given up"


def test_a_cohort_through_a_service_is_the_predictors(cohort_folder: Path, tmp_path: Path) -> None:
    found, out = cohort.find(str(cohort_folder)), tmp_path / "out"
    with listening(Double(tmp_path / "state").app) as url:
        summary = endpoint.score_through(endpoint.connect(url), found, str(out))
        again = endpoint.score_through(endpoint.connect(url), found, str(out))
    assert summary.counts == {"ok": 5}
    assert (again.processed, again.skipped) == (0, 5)
    for case in found.cases:
        made = predictor().segment(files_of(cohort_folder / case.case_id))
        raw = labels.from_class_index(made.mask_native, TASKS["gli-2020"])
        mask = (out / f"{case.case_id}.nii.gz").read_bytes()
        assert mask == encode(raw, made.geometry)


def channels_of_the_first(cohort_folder: Path, folder: Path) -> Cohort:
    """A CSV of a case whose scans are channels of one file."""
    shapes.csv_of_4d(cohort.find(str(cohort_folder)).cases[0], folder)
    return cohort.find(str(folder / "cohort.csv"))


def no_service(_: httpx.Request) -> httpx.Response:
    raise AssertionError("nothing is to be uploaded")


def test_channels_of_one_file_are_refused_before_anything_is_uploaded_or_written(
    cohort_folder: Path, tmp_path: Path
) -> None:
    found, out = channels_of_the_first(cohort_folder, tmp_path / "in"), tmp_path / "out"
    client = httpx.Client(base_url="http://played", transport=httpx.MockTransport(no_service))
    service = dataclasses.replace(remote(""), client=client)
    with pytest.raises(UsageError, match=r"channels of one file.* score with a bundle here"):
        endpoint.score_through(service, found, str(out))
    assert not out.exists()


def test_channels_that_the_model_does_not_read_are_none_of_its_business(
    cohort_folder: Path, tmp_path: Path
) -> None:
    (case,) = channels_of_the_first(cohort_folder, tmp_path / "in").cases
    plain = cohort.find(str(cohort_folder))
    images = {**plain.cases[0].images, "t1": case.images["t1ce"]}
    mixed = dataclasses.replace(plain.cases[0], images=images)
    service = remote(SERVED.card["identity"]["bundles"][0])
    found = dataclasses.replace(plain, cases=(mixed,))
    assert endpoint.score_through(service, found, str(tmp_path / "out")).counts == {"ok": 1}
