"""What the options of `serve` mean, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_brats.cli import main
from ray_brats.commands import services
from ray_brats.errors import ArtefactError, UsageError
from ray_brats.files import storage
from ray_brats.model import card
from ray_brats.serve.http import access


def test_bundles_of_one_name_are_one_model_and_keep_their_pins() -> None:
    models, pinned = services.named(["fast=a", "exact=b", "exact=c"], ["1", "2", "3"])
    assert models == {
        "fast": (storage.absolute("a"),),
        "exact": (storage.absolute("b"), storage.absolute("c")),
    }
    assert pinned == {"fast": ("1",), "exact": ("2", "3")}


def test_a_bundle_without_a_name_is_the_default() -> None:
    models, pinned = services.named(["/a", "b=/b"], ["1", "2"])
    assert models == {"default": ("/a",), "b": ("/b",)}
    assert pinned == {"default": ("1",), "b": ("2",)}


def test_without_a_bundle_the_starter_is_served() -> None:
    assert services.named([], []) == ({"default": (card.STARTER,)}, {})


def test_pins_are_one_a_bundle_or_none() -> None:
    with pytest.raises(UsageError, match="--bundle-sha256 names 1 and --bundle 2: expected one"):
        services.named(["a", "b"], ["1"])


def test_an_open_address_without_keys_is_refused_with_the_remedy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--bundle", "nowhere", "--host", "0.0.0.0"])
    assert ended.value.code == 2
    assert "ray-brats key" in capsys.readouterr().err


def test_key_writes_a_hash_and_tells_the_key_once(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    made = services.key(services.KeyOptions(file=str(file), name="clinic")).facts["key"]
    assert made not in file.read_text()
    assert access.Keys(str(file)).caller({"authorization": f"Bearer {made}"}) == "clinic"
    with pytest.raises(UsageError, match="clinic"):
        services.key(services.KeyOptions(file=str(file), name="clinic"))


def test_keys_of_a_bucket_are_not_overwritten_but_refused() -> None:
    with pytest.raises(UsageError, match="this machine"):
        services.key(services.KeyOptions(file="s3://bucket/keys.txt", name="clinic"))


def test_a_bundle_that_is_none_leaves_no_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtefactError, match="is no bundle"):
        services.serve(services.ServeOptions(bundle=(str(tmp_path / "none"),)))
    assert not list(tmp_path.iterdir())


def test_a_port_that_cannot_be_leaves_no_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="expected 1 to 65535"):
        services.serve(services.ServeOptions(access=services.Access(port=1 << 16)))
    assert not list(tmp_path.iterdir())
