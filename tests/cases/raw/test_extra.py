"""Packages of the extra."""

import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ray_brats.cases.raw import extra
from ray_brats.errors import UsageError


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UsageError, match=r"need pydicom.*pip install 'ray-brats\[raw\]'"):
        extra.imported("pydicom")


def test_all_that_the_extra_brings_is_known() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    names = [Requirement(text).name for text in project["project"]["optional-dependencies"]["raw"]]
    assert sorted(names) == sorted(extra.PACKAGES)


def test_what_is_missing_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("torch", "deepbet") else name
    )
    assert extra.missing() == ["deepbet", "torch"]


def test_a_package_that_is_here_comes() -> None:
    assert extra.imported("json").loads("1") == 1
