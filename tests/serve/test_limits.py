"""Which URIs clients may name."""

from __future__ import annotations

import pytest

from ray_brats.serve.limits import Limits, Refusal, check_output, check_uri

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


BOUNDS = Limits(
    uri_prefixes=("s3://ours/in", "s3://ours/out"),
    output_prefixes=("s3://ours/out", "s3://ours/models", "s3://ours/in/inner"),
    kept_uris=("s3://ours/out/state", "/here/state", "s3://ours/models/released"),
)
COHORT = "s3://ours/in/cohort"


@pytest.mark.parametrize("uri", ["s3://ours/out", "s3://ours/out/a", "s3://ours/models/new/"])
def test_masks_are_written_below_their_own_prefixes(uri: str) -> None:
    if uri != "s3://ours/out":
        assert check_output(uri, COHORT, BOUNDS) == uri.rstrip("/")
    else:
        with pytest.raises(Refusal, match="holds or lies in"):
            check_output(uri, COHORT, BOUNDS)  # the state lies in it


def test_what_may_be_read_may_not_therefore_be_written() -> None:
    with pytest.raises(Refusal, match="write to"):
        check_output("s3://ours/in/other", COHORT, BOUNDS)
    with pytest.raises(Refusal, match="write to"):
        check_output("s3://ours/in/other", COHORT, Limits(uri_prefixes=("s3://ours",)))


@pytest.mark.parametrize(
    ("uri", "cohort"),
    [("s3://ours/out/c", "s3://ours/out/c"), ("s3://ours/out/c", "s3://ours/out/c/cohort.csv"),
     ("s3://ours/out/c/masks", "s3://ours/out/c"), ("s3://ours/out/state/x", COHORT),
     ("s3://ours/models/released", COHORT), ("s3://ours/models/released/saved_model", COHORT),
     ("s3://ours/models", COHORT), ("s3://ours/out/c/", "s3://ours/out/c/")],
)  # fmt: skip
def test_no_output_is_holds_or_lies_in_what_is_kept(uri: str, cohort: str) -> None:
    with pytest.raises(Refusal, match="is, holds or lies in"):
        check_output(uri, cohort, BOUNDS)


def test_a_chain_of_places_is_refused() -> None:
    with pytest.raises(Refusal, match="plain"):
        check_uri("s3://open/a::s3://theirs/b", LIMITS)
