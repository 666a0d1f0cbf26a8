"""The bias field of a coil, estimated and divided out (N4: Tustison et al. 2010, IEEE TMI)."""

from __future__ import annotations

from ray_brats.cases.raw import itk
from ray_brats.cases.raw.placed import Placed
from ray_brats.errors import CaseRejected

_SHRINK = 4
_ROUNDS = (40, 40, 20)


def corrected(image: Placed) -> Placed:
    """The image without its bias field, float32; the field is estimated on a fourth of the rows.

    Raises:
        CaseRejected: the image is too flat for a field.
        UsageError: SimpleITK is not installed.
    """
    sitk = itk.simpleitk()
    itk.on_one_thread()
    whole = itk.image_of(image)
    # Slices are few and thick: rows and columns alone are thinned out.
    shrink = [_SHRINK if side >= 64 else 1 for side in image.grid.shape_vox]
    coarse = sitk.Shrink(whole, shrink)
    head = sitk.OtsuThreshold(coarse, 0, 1, 200)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(_ROUNDS)
    try:
        n4.Execute(coarse, head)
    except RuntimeError as error:
        shape = "×".join(map(str, image.grid.shape_vox))
        raise CaseRejected(
            f"the bias field of {shape} voxels cannot be estimated: expected several slices of a "
            "head"
        ) from error
    field = sitk.Exp(n4.GetLogBiasFieldAsImage(whole))
    # The sign of division would make it float64.
    even = sitk.Divide(whole, sitk.Cast(field, sitk.sitkFloat32))
    return Placed(voxels=itk.array_of(even), grid=image.grid)
