"""The audit of dependencies finds what it knows, also behind other packages, without a network."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

SCRIPT = Path(__file__).parents[1] / ".ci/audit.py"


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_affected_versions_are_named_and_others_are_not(audit: ModuleType) -> None:
    versions = {"ray": Version("2.53.0"), "starlette": Version("0.49.1"), "other": Version("1")}
    assert audit.affected(versions) == ["ray 2.53.0: CVE-2026-27482 affects <2.54"]
    assert audit.affected({"pillow": Version("12.2")}) == []
    assert len(audit.affected({"pillow": Version("11.2.1")})) == 2


def test_dependencies_of_dependencies_and_of_extras_are_there(audit: ModuleType) -> None:
    found = audit.installed()
    # FastAPI brings the first, `ray[serve]` the second.
    assert {"ray", "starlette", "watchfiles", "h11"} <= set(found)
    assert "pytest" not in found


def test_no_version_that_the_project_lets_in_is_affected(audit: ModuleType) -> None:
    assert {"ray", "pillow", "moto", "torch"} <= set(audit.allowed())
    assert audit.let_in(audit.allowed()) == []


@pytest.mark.parametrize(
    ("package", "version", "name"),
    [
        ("keras", "3.12", "CVE-2026-0897"),
        ("pillow", "12.1", "CVE-2026-25990"),
        ("protobuf", "6.33.4", "CVE-2026-0994"),
        ("pyarrow", "23.0.0", "CVE-2026-25087"),
        ("ray", "2.53", "CVE-2026-27482"),
        ("werkzeug", "3.1.4", "CVE-2026-21860"),
    ],
)
def test_advisories_of_early_2026_are_known(
    audit: ModuleType, package: str, version: str, name: str
) -> None:
    told = audit.affected({package: Version(version)})
    assert [sentence for sentence in told if f": {name} affects" in sentence]


def test_a_parser_of_forms_that_takes_quadratic_time_is_not_let_in(audit: ModuleType) -> None:
    """No advisory says so of 0.0.22 to 0.0.33; it was measured."""
    let_in = audit.allowed()["python-multipart"]
    assert [minor for minor in range(22, 36) if f"0.0.{minor}" in let_in] == [34, 35]


def test_a_range_is_judged_as_a_range_and_not_by_its_lower_end(audit: ModuleType) -> None:
    (sentence,) = audit.let_in({"pillow": SpecifierSet(">=11,<11.3")})[:1]
    assert sentence == "pillow 11.2, which CVE-2025-48379 affects (<11.3,>=11.2)"


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        (">=11", ">=11.2,<11.3", "11.2"),
        (">=11.3", ">=11.2,<11.3", None),
        ("==2.4.*", ">=2.4.1,<3", "2.4.1"),
        ("==2.60.0", "<2.54", None),
        (">1,<2", "<=1", None),
        (">1,<2", "<=1.5", "1.0.0.1"),
        ("", "<1", "0"),
        ("!=1.2,>=1.2", "<1.3", "1.2.0.0.1"),
    ],
)
def test_what_two_ranges_share(audit: ModuleType, one: str, other: str, shared: str | None) -> None:
    found = audit.in_both(SpecifierSet(one), SpecifierSet(other))
    assert found == (shared and Version(shared))


def test_the_script_says_what_it_asked_and_fails_where_something_is_affected(
    audit: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "advisories.toml").write_text(
        'published = 2026-01-01\n[ray]\nCVE-0 = ["<1"]\nCVE-1 = [">=2"]\n'
    )
    changed = SCRIPT.read_text().replace("parents[1]", "parents[0]")
    (tmp_path / "audit.py").write_text(changed)
    (tmp_path / "pyproject.toml").write_text((SCRIPT.parents[1] / "pyproject.toml").read_text())
    done = subprocess.run(
        [sys.executable, tmp_path / "audit.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert "2 advisories up to 2026-01-01" in done.stdout
    assert "the database of advisories" in done.stdout
    assert f"ray {audit.installed()['ray']}: CVE-1 affects >=2" in done.stdout
    assert "CVE-0" not in done.stdout
