"""Fetching the optional 3-D viewer: pinned, checked, and refused with a sentence."""

from __future__ import annotations

import base64
import hashlib
import io
import stat
import tarfile
from pathlib import Path

import pytest

from ray_brats.errors import ArtefactError, UsageError
from ray_brats.serve import niivue


def tarball(content: bytes = b"export class Niivue {}") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member in niivue.FILES:
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def pin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    monkeypatch.setattr(niivue, "INTEGRITY", f"sha512-{digest}")


def fake_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    folder.mkdir()
    script = folder / "npm"
    script.write_text(f"#!/bin/sh\n{lines}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_pinned_tarball_is_put_into_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tarball()
    pin(monkeypatch, packed)
    (tmp_path / "kept.tgz").write_bytes(packed)
    copy = f'test "$1 $2" = "pack {niivue.PACKAGE}@{niivue.VERSION}" && cp "{tmp_path}/kept.tgz" .'
    fake_npm(tmp_path / "bin", monkeypatch, copy)
    module = niivue.fetch(tmp_path / "vendor")
    assert module.read_bytes() == b"export class Niivue {}"
    assert {path.name for path in (tmp_path / "vendor").iterdir()} == set(niivue.FILES.values())


def test_another_tarball_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="not the one that was checked"):
        niivue.unpack(tarball(b"something else"), tmp_path / "vendor")
    assert not (tmp_path / "vendor").exists()


def test_a_registry_that_is_away_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_npm(tmp_path / "bin", monkeypatch, "echo 'npm error code ENOTFOUND' >&2; exit 1")
    assert niivue.main() == 2
    said = capsys.readouterr().err
    assert "npm error code ENOTFOUND" in said
    assert "Traceback" not in said


def test_without_npm_the_advice_is_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"Install Node\.js"):
        niivue.fetch(tmp_path / "vendor")


def test_the_viewer_is_what_was_fetched_or_else_what_the_wheel_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(niivue, "vendor_folder", lambda: tmp_path / "vendor")
    installed = niivue.module()
    assert installed is not None, "the wheel comes with the package"
    assert installed.endswith(niivue.EXPORTS)
    monkeypatch.setattr(niivue, "WHEEL", "no_such_wheel")
    assert niivue.module() is None
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor" / niivue.MODULE).write_bytes(b"export class Niivue {}")
    assert niivue.module() == b"export class Niivue {}"


def test_another_version_of_the_wheel_is_not_taken_for_the_pinned_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(niivue, "vendor_folder", lambda: tmp_path / "vendor")
    static = tmp_path / "another_wheel" / "static"
    static.mkdir(parents=True)
    (static.parent / "__init__.py").write_text("raise AssertionError('it was imported')\n")
    (static / "widget.js").write_text("export{X as default};\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(niivue, "WHEEL", "another_wheel")
    assert niivue.module() is None
    digest = hashlib.sha256((static / "widget.js").read_bytes()).hexdigest()
    monkeypatch.setattr(niivue, "WIDGET_SHA256", digest)
    assert niivue.module() == b"export{X as default};\n" + niivue.EXPORTS
