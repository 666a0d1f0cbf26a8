"""Which URIs clients may name."""

from __future__ import annotations

import pytest

from ray_brats.serve.limits import Limits, Refusal, check_uri

LIMITS = Limits(uri_prefixes=("s3://ours/cohort", "s3://open/"))


@pytest.mark.parametrize("uri", ["s3://ours/cohort/a/b.nii.gz", "s3://open/x", "s3://ours/cohort"])
def test_uris_below_a_prefix_pass(uri: str) -> None:
    assert check_uri(uri, LIMITS) == uri


@pytest.mark.parametrize(
    "uri",
    ["s3://ours/cohorts/a", "s3://ours/cohort/../x", "s3://ours/cohort//x", "s3://open/a b",
     "s3://ours/cohort/..", "https://open/x", "S3://open/x", "s3://open/%2e%2e/x", "", 5],
)  # fmt: skip
def test_others_do_not(uri: object) -> None:
    with pytest.raises(Refusal):
        check_uri(uri, LIMITS)
