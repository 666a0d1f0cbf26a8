"""A synthetic case for trying the service out, made on the fly."""

from __future__ import annotations

import functools
import io
import tempfile
import zipfile
from pathlib import Path

from ray_brats.cases import phantom

SHAPE_VOX = (160, 160, 104)


@functools.cache
def phantom_archive() -> bytes:
    """The files of one phantom as a zip; made at the first call."""
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="ray-brats-") as folder:
        (case_id,) = phantom.write_cohort(Path(folder), cases=1, shape_vox=SHAPE_VOX)
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in phantom.MODALITIES:
                file = Path(folder) / case_id / f"{case_id}_{name}.nii.gz"
                # With a fixed time, so that the bytes are the same each time.
                archive.writestr(zipfile.ZipInfo(file.name), file.read_bytes())
    return buffer.getvalue()
