"""Intensities: both ways to normalise them, to the last bit."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from ray_brats.cases import geometry, intensities, volume


@pytest.mark.parametrize("dtype", ["int16", "uint8", "int32", "float32", "float64"])
@pytest.mark.parametrize("axes", ["LPS", "RAS", "SLP"])
def test_minmax_equals_scikit_learns_to_the_last_bit(dtype: str, axes: str) -> None:
    from sklearn.preprocessing import MinMaxScaler

    random = np.random.default_rng(0)
    canonical = (random.random((9, 8, 7)) * 200).astype(dtype)
    canonical[:, :, 3] = 5  # a constant slice
    source = nib.Nifti1Image(canonical, np.diag([-1.0, -1, 1, 1]))
    codes = nib.orientations.axcodes2ornt
    turned = source.as_reoriented(nib.orientations.ornt_transform(codes("LPS"), codes(axes)))
    item = volume.parse(bytes(turned.to_bytes()), "a.nii")
    cropped = geometry.with_crop(item.geometry, (2, -1, 1), (5, 12, 5))
    # As nibabel's get_fdata() gives it to the original's scaler.
    flat = canonical.astype(np.float64).reshape(-1, canonical.shape[-1])
    whole = MinMaxScaler().fit_transform(flat).reshape(canonical.shape).astype(np.float32)
    got = intensities.minmax_slices(item.voxels_HWD, cropped)
    assert got.dtype == np.float32
    assert np.array_equal(got, cropped.crop(whole))


def test_a_scaled_file_is_normalised_as_get_fdata_gives_it() -> None:
    from sklearn.preprocessing import MinMaxScaler

    voxels = np.random.default_rng(0).integers(0, 900, (9, 8, 7)).astype(np.int16)
    image = nib.Nifti1Image(voxels, np.diag([-1.0, -1, 1, 1]))
    content = bytearray(image.to_bytes())
    content[112:120] = np.array([0.1, 3.7], "<f4").tobytes()
    exact = nib.Nifti1Image.from_bytes(bytes(content)).get_fdata()
    expected = MinMaxScaler().fit_transform(exact.reshape(-1, 7)).reshape(exact.shape)
    item = volume.parse(bytes(content), "a.nii", exact=True)
    got = intensities.minmax_slices(item.voxels_HWD, item.geometry)
    assert np.array_equal(got, expected.astype(np.float32))
    assert volume.parse(bytes(content), "a.nii").voxels_HWD.dtype == np.float32


def test_z_scores_ignore_the_background() -> None:
    scaled = intensities.zscore_nonzero(np.array([[[0, 0, 1, 3]]]))
    assert scaled.tolist() == [[[0, 0, -1, 1]]]


@pytest.mark.parametrize("order", ["C", "F"])
def test_z_scores_keep_the_order_of_the_memory(order: str) -> None:
    voxels = np.array(np.random.default_rng(0).integers(0, 3, (6, 5, 4)), np.int16, order=order)
    scaled = intensities.zscore_nonzero(voxels, "float16")
    assert (scaled.dtype, scaled.flags.c_contiguous) == (np.float16, order == "C")
    brain = voxels != 0
    values = (voxels[brain] - voxels[brain].mean()) / voxels[brain].std()
    np.testing.assert_allclose(scaled[brain], values, atol=2e-3)
    assert not scaled[~brain].any()


def test_placing_copies_every_voxel_into_another_order() -> None:
    values = np.random.default_rng(0).random((70, 33, 5)).astype(np.float32)
    target = np.zeros((70, 33, 5), np.float16, order="F")
    intensities.place(values, target)
    assert np.array_equal(target, values.astype(np.float16))
