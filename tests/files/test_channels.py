"""Channels at the end of URIs."""

from __future__ import annotations

import pytest

from ray_brats.files import channels
from ray_brats.files.local import FileInfo


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/a/x.nii.gz#0", ("/a/x.nii.gz", 0)),
        ("s3://b/x.NII#12", ("s3://b/x.NII", 12)),
        ("/a#1/x #2.nii.gz#3", ("/a#1/x #2.nii.gz", 3)),
        ("/a\n/x.nii#4", ("/a\n/x.nii", 4)),
        ("/a/x.nii.gz", ("/a/x.nii.gz", None)),
        ("/a/x#1.nii.gz", ("/a/x#1.nii.gz", None)),
        ("/a/x.nii.gz#", ("/a/x.nii.gz#", None)),
        ("/a/x.nii.gz#-1", ("/a/x.nii.gz#-1", None)),
        ("/a/x.nii.gz#01", ("/a/x.nii.gz#01", None)),
        ("/a/x.nii.gz#flair", ("/a/x.nii.gz#flair", None)),
        ("/a/x.nii.gz#1#2", ("/a/x.nii.gz#1#2", None)),
        ("/a/x.nii.gz#\u0663", ("/a/x.nii.gz#\u0663", None)),
        ("/a/x.nii.gz#1\n", ("/a/x.nii.gz#1\n", None)),
        ("/a/x.nii.gz#" + "9" * 5000, ("/a/x.nii.gz#" + "9" * 5000, None)),
        ("/a/x.mgz#1", ("/a/x.mgz#1", None)),
        ("/a/x.nii.gz#1/y", ("/a/x.nii.gz#1/y", None)),
    ],
)
def test_only_a_number_right_behind_a_nifti_file_is_a_channel(
    uri: str, expected: tuple[str, int | None]
) -> None:
    assert channels.split(uri) == expected
    assert channels.file_of(uri) == expected[0]


def test_a_channel_is_known_by_its_files_etag_and_its_number() -> None:
    file = FileInfo(uri="x.nii", size_bytes=9, etag="e")
    one = channels.of(file, 1)
    assert (one.uri, one.size_bytes) == ("x.nii#1", 9)
    assert one.etag != channels.of(file, 2).etag
    assert channels.split(one.uri) == ("x.nii", 1)


def test_of_a_file_that_was_not_seen_no_channel_was() -> None:
    assert channels.of(FileInfo(uri="x.nii", size_bytes=0, etag=""), 1).etag == ""
