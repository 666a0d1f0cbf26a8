"""Packages of the extra."""

import sys

import pytest

from ray_brats.cases.raw import extra
from ray_brats.errors import UsageError


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UsageError, match=r"need pydicom.*pip install 'ray-brats\[raw\]'"):
        extra.imported("pydicom")


def test_a_package_that_is_here_comes() -> None:
    assert extra.imported("json").loads("1") == 1
