"""Requests made from the OpenAPI document itself: no answer is a 500, and each is as documented."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serve_doubles import Double, files_of, listening, zipped

from ray_brats.cases import phantom
from ray_brats.cases.raw import apart
from ray_brats.errors import UsageError
from ray_brats.serve.limits import Limits

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("openapi")
    (case_id,) = phantom.write_cohort(folder / "one", cases=1, shape_vox=(32, 32, 24))
    files = files_of(folder / "one" / case_id)
    good = zipped({f"{name}.nii.gz": content for name, content in files.items()})
    bodies = st.sampled_from([good, good[:-80], zipped({}), b"PK\x03\x04"]) | st.binary()
    schemathesis.openapi.media_type("application/zip", bodies)
    app = Double(folder / "state", limits=Limits(idle_seconds=2)).app
    with pytest.MonkeyPatch.context() as patched, listening(app) as url:
        # A process for each study takes seconds, and has tests of its own.
        patched.setattr(apart, "check_packages", no_extra)
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def no_extra() -> None:
    raise UsageError("raw scans need a package")


def test_no_request_of_the_document_meets_a_500(document: Any) -> None:
    seen = []
    jobs: list[str] = []
    for operation in (result.ok() for result in document.get_all_operations()):

        @settings(
            max_examples=80,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            if jobs and len(seen) % 2 and "job_id" in (case.path_parameters or {}):
                case.path_parameters["job_id"] = jobs[0]
            answer = case.call(timeout=20)
            case.validate_response(answer, checks=CHECKS)
            seen.append((case.operation.label, answer.status_code))
            if answer.status_code == 202:
                jobs.append(answer.json()["id"])

        ask()
    assert len({label for label, _ in seen}) >= 10
    assert ("POST /v1/segmentations", 200) in seen
    assert ("POST /v1/jobs", 202) in seen
    assert ("GET /v1/jobs/{job_id}", 200) in seen
