"""Which URIs may be named, and where listening asks for keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_brats.cli import main
from ray_brats.commands import services
from ray_brats.errors import UsageError
from ray_brats.serve import settings
from ray_brats.serve.http import access
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


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("10.0.0.1", False), ("::", False), ("example.org", False)],
)  # fmt: skip
def test_loopback_is_told_apart(host: str, local: bool) -> None:
    assert access.is_loopback(host) is local


def test_an_open_address_without_keys_is_refused_with_the_remedy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--bundle", "nowhere", "--host", "0.0.0.0"])
    assert ended.value.code == 2
    assert "ray-brats key" in capsys.readouterr().err


def test_key_writes_a_hash_and_tells_the_key_once(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    made = services.key(services.KeyOptions(file=str(file), name="clinic"))["key"]
    assert made not in file.read_text()
    assert access.Keys(str(file)).caller({"authorization": f"Bearer {made}"}) == "clinic"
    with pytest.raises(UsageError, match="clinic"):
        services.key(services.KeyOptions(file=str(file), name="clinic"))


def test_a_configuration_file_says_who_may_call() -> None:
    values = {"models": {"a": "/a"}, "state": "/s"}
    for odd in ({}, {"api_keys": "/k", "no_auth": True}):
        with pytest.raises(UsageError, match="api_keys"):
            settings.from_args({**values, **odd})
    assert settings.from_args({**values, "api_keys": "/k"}).models == {"a": ("/a",)}
    assert settings.from_args({**values, "no_auth": True}).api_keys is None


def test_bundles_are_named() -> None:
    models, pinned = services.named(["/a", "b=/b", "b=/c"], ["1", "2", "3"])
    assert models == {"default": ("/a",), "b": ("/b", "/c")}
    assert pinned == {"default": ("1",), "b": ("2", "3")}
