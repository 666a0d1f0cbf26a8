#!/usr/bin/env python3
"""Audit what ray-brats depends on for known vulnerabilities; the exit status is 1 where one is.

Two sources: advisories.toml beside this file, which needs no network, and pip-audit with the
database of osv.dev, where that can be reached. Run it with the environment's own Python.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ADVISORIES = Path(__file__).with_name("advisories.toml")
PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def read_advisories() -> tuple[str, dict[str, dict[str, list[SpecifierSet]]]]:
    """Until when they are known, and package to advisory to the versions affected."""
    content = tomllib.loads(ADVISORIES.read_text())
    published = str(content.pop("published"))
    return published, {
        package: {name: [SpecifierSet(one) for one in ranges] for name, ranges in known.items()}
        for package, known in content.items()
    }


def installed(root: str = "ray-brats") -> dict[str, Version]:
    """All that the package needs at run time, directly or not, as it is installed here."""
    found: dict[str, Version] = {}
    todo = [(root, "")]
    done = set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in done:
            continue
        done.add((name, extra))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # Another system's.
        found[canonicalize_name(name)] = Version(distribution.version)
        for line in distribution.requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                todo += [(needed.name, one) for one in ("", *needed.extras)]
    return found


def allowed() -> dict[str, SpecifierSet]:
    """The versions of each direct dependency that pyproject.toml lets in, extras included."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    lines = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        lines += extra
    return {canonicalize_name(one.name): one.specifier for one in map(Requirement, lines)}


def let_in(ranges: dict[str, SpecifierSet]) -> list[str]:
    """A sentence for each advisory that affects some version of these ranges."""
    _, advisories = read_advisories()
    return [
        f"{package} {version}, which {name} affects ({range_})"
        for package, specifier in sorted(ranges.items())
        for name, known in advisories.get(package, {}).items()
        for range_ in known
        if (version := in_both(specifier, range_)) is not None
    ]


def in_both(one: SpecifierSet, other: SpecifierSet) -> Version | None:
    """A version that two ranges share, or None.

    If there is one, there is one at the lower end of a range, or right above it.
    """
    ends = [bound.version.removesuffix(".*") for bound in (*one, *other)]
    candidates = ["0", *ends, *(f"{end}.0.0.1" for end in ends)]
    versions = sorted(Version(text) for text in candidates)
    return next((v for v in versions if v in one and v in other), None)


def affected(versions: dict[str, Version]) -> list[str]:
    """A sentence for each advisory that one of these versions is affected by."""
    _, advisories = read_advisories()
    return [
        f"{package} {version}: {name} affects {range_}"
        for package, version in sorted(versions.items())
        for name, ranges in advisories.get(package, {}).items()
        for range_ in ranges
        if range_.contains(version, prereleases=True)
    ]


def ask_database() -> tuple[list[str], bool, str]:
    """What pip-audit finds, whether it reached the database, and a sentence about that."""
    command = ("-m", "pip_audit", "-s", "osv", "--local", "--timeout", "10", "-f", "json")
    done = subprocess.run(
        [sys.executable, *command, "--progress-spinner", "off"],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        # The whole error is a page; its innermost cause stands last.
        *_, cause = re.split(r"[:>] ", done.stderr.strip() or f"status {done.returncode}")
        return [], False, "was not reached: " + cause.rstrip(')"')
    found = [
        f"{one['name']} {one['version']}: {bug['id']}, mended in {', '.join(bug['fix_versions'])}"
        for one in packages
        for bug in one.get("vulns", [])
    ]
    asked = sum("vulns" in one for one in packages)
    return found, True, f"knows {asked} of {len(packages)} packages"


def main() -> int:
    """Both sources over what is installed, and the first over all versions allowed."""
    versions = installed()
    published, advisories = read_advisories()
    count = sum(map(len, advisories.values()))
    found = affected(versions)
    found += [f"pyproject.toml lets in {sentence}" for sentence in let_in(allowed())]
    print(f"audit: {len(versions)} packages; {count} advisories up to {published}")
    online, asked, how = ask_database()
    print(f"audit: the database of advisories {how}")
    found += online
    for sentence in found:
        print(f"audit: {sentence}")
    until = "today" if asked else published
    nothing = f"nothing affects them that was known until {until}"
    print("audit: " + ("raise what is named above" if found else nothing))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
