"""Preprocessing: both recipes to the letter, and every kind of bad input."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import file_of, rewrite

from ray_brats.cases import case, cohort, preprocess
from ray_brats.errors import CaseFiltered, CaseRejected
from ray_brats.recipes import named
from ray_brats.recipes.config import PreprocessConfig

BASELINE = named.get("baseline").preprocess
STANDARD = named.get("standard").preprocess


def only_case(folder: Path) -> case.Case:
    (case,) = cohort.find(str(folder)).cases
    return case


def load(case: Path, kind: str) -> np.ndarray:
    return np.asarray(nib.load(file_of(case, kind)).dataobj)


def test_baseline_crop_of_a_brats_volume_is_the_originals() -> None:
    start = preprocess.centred_start((240, 240, 155), (128, 128, 128))
    assert start == (56, 56, 13)


def test_baseline_equals_the_originals_lines(one_case: Path) -> None:
    from sklearn.preprocessing import MinMaxScaler

    config = dataclasses.replace(BASELINE, crop_size_vox=(32, 32, 32), min_labelled_share=0.0)
    prepared = preprocess.preprocess_case(only_case(one_case), config)
    scaler = MinMaxScaler()
    for channel, kind in enumerate(("t1ce", "t2", "flair")):
        voxels = load(one_case, kind)
        scaled = scaler.fit_transform(voxels.reshape(-1, voxels.shape[-1])).reshape(voxels.shape)
        expected = scaled[16:48, 16:48, 8:40].astype(np.float32)
        assert (prepared.image_HWDC[..., channel] == expected).all()
    mask = load(one_case, "seg")[16:48, 16:48, 8:40]
    assert (prepared.label_HWD == np.where(mask == 4, 3, mask)).all()
    assert prepared.image_HWDC.dtype == np.float32


def test_a_recipes_spacing_gives_a_coarser_grid_and_masks_come_back(one_case: Path) -> None:
    native = load(one_case, "seg")
    own = preprocess.preprocess_case(only_case(one_case), STANDARD)
    spacing = tuple(2 * side for side in own.geometry.spacing_mm)
    config = dataclasses.replace(STANDARD, spacing_mm=spacing)
    coarse = preprocess.preprocess_case(only_case(one_case), config)
    assert coarse.geometry.grid_shape == tuple(side // 2 for side in native.shape)
    ratio = np.divide(own.image_HWDC.shape[:3], coarse.image_HWDC.shape[:3])
    assert np.allclose(ratio, 2, atol=0.15)
    assert coarse.label_HWD is not None
    assert coarse.label_HWD.shape == coarse.image_HWDC.shape[:3]
    back = coarse.geometry.to_native(coarse.label_HWD)
    assert back.shape == native.shape
    both = 2 * np.count_nonzero((back > 0) & (native > 0))
    assert both / (np.count_nonzero(back) + np.count_nonzero(native)) > 0.8
    same = dataclasses.replace(STANDARD, spacing_mm=own.geometry.spacing_mm)
    again = preprocess.preprocess_case(only_case(one_case), same)
    assert np.array_equal(again.image_HWDC, own.image_HWDC)
    assert again.geometry == own.geometry


def test_float_masks_with_whole_numbers_are_masks(one_case: Path) -> None:
    expected = preprocess.preprocess_case(only_case(one_case), STANDARD).label_HWD
    rewrite(file_of(one_case, "seg"), lambda v: v)
    assert nib.load(file_of(one_case, "seg")).get_data_dtype() == np.float32
    got = preprocess.preprocess_case(only_case(one_case), STANDARD).label_HWD
    assert np.array_equal(got, expected)


def test_baseline_pads_scans_smaller_than_its_crop(one_case: Path) -> None:
    config = dataclasses.replace(BASELINE, min_labelled_share=0.0)
    prepared = preprocess.preprocess_case(only_case(one_case), config)
    assert prepared.image_HWDC.shape == (128, 128, 128, 3)
    native = load(one_case, "seg")
    assert prepared.label_HWD is not None
    back = prepared.geometry.to_native(prepared.label_HWD)
    assert (back == np.where(native == 4, 3, native)).all()


def test_the_labelled_share_rule_filters_and_can_be_overridden(one_case: Path) -> None:
    rewrite(file_of(one_case, "seg"), np.zeros_like)
    case = only_case(one_case)
    told = "of the 128×128×128 crop in the centre of 64×64×48 voxels .* more than 1%"
    with pytest.raises(CaseFiltered, match=told):
        preprocess.preprocess_case(case, BASELINE)
    assert preprocess.preprocess_case(case, BASELINE, keep_filtered=True).label_HWD is not None


def test_a_case_without_a_mask_is_exempt_from_the_rule(one_case: Path) -> None:
    file_of(one_case, "seg").unlink()
    assert preprocess.preprocess_case(only_case(one_case), BASELINE).label_HWD is None


def test_standard_crops_to_the_brain_and_scores_its_voxels(one_case: Path) -> None:
    prepared = preprocess.preprocess_case(only_case(one_case), STANDARD)
    native = np.stack([load(one_case, kind) for kind in ("t1ce", "t2", "flair")], axis=-1)
    assert np.count_nonzero(prepared.image_HWDC[..., 0]) <= np.count_nonzero(native[..., 0])
    for channel in range(3):
        values = prepared.image_HWDC[..., channel].astype(np.float64)
        brain = prepared.geometry.crop(native)[..., channel] != 0
        assert not values[~brain].any()
        assert values[brain].mean() == pytest.approx(0, abs=1e-3)
        assert values[brain].std() == pytest.approx(1, abs=1e-3)
    outside = prepared.geometry.to_canonical(np.ones(prepared.image_HWDC.shape[:3], bool))
    assert not native[~outside].any()


@pytest.mark.parametrize("config", [BASELINE, STANDARD], ids=["baseline", "standard"])
@pytest.mark.parametrize(
    ("kind", "damage", "reason"),
    [
        ("t2", Path.unlink, "modality t2 is missing"),
        ("t2", lambda path: path.write_bytes(path.read_bytes()[:2000]), "truncated"),
        ("t2", lambda path: rewrite(path, lambda v: v[:-2]), "shape"),
        ("t2", lambda path: rewrite(path, np.zeros_like), "zero everywhere"),
        ("flair", lambda path: rewrite(path, lambda v: np.where(v > 0, np.nan, v)), "NaN"),
        ("seg", lambda path: rewrite(path, lambda v: v + 7), "label 7"),
        ("seg", lambda path: rewrite(path, lambda v: v + 0.5), "not whole numbers"),
        ("seg", lambda path: rewrite(path, lambda v: v[..., :-1]), "grid"),
    ],
)
def test_bad_input_is_rejected_and_named(
    one_case: Path, config: PreprocessConfig, kind: str, damage: object, reason: str
) -> None:
    damage(file_of(one_case, kind))  # type: ignore[operator]
    with pytest.raises(CaseRejected, match=reason) as caught:
        preprocess.preprocess_case(only_case(one_case), config)
    if "missing" not in reason:
        assert kind in caught.value.file


def test_another_affine_is_rejected(one_case: Path) -> None:
    path = file_of(one_case, "flair")
    image = nib.load(path)
    moved = image.affine.copy()
    moved[0, 3] += 2
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), path)
    with pytest.raises(CaseRejected, match="affine differs by up to 2 mm"):
        preprocess.preprocess_case(only_case(one_case), STANDARD)


def test_a_real_case_goes_there_and_back(real_data: Path) -> None:
    folder = next((real_data / "brats2018" / "HGG").iterdir())
    prepared = preprocess.preprocess_case(only_case(folder), STANDARD)
    native = load(folder, "seg")
    assert prepared.label_HWD is not None
    back = prepared.geometry.to_native(prepared.label_HWD)
    assert (back == np.where(native == 4, 3, native)).all()


def changed(path: Path, **how: object) -> None:
    """Write an image anew: other voxels, affine or axes."""
    image = nib.load(path)
    voxels = how.get("voxels", np.asarray(image.dataobj))
    new = nib.Nifti1Image(voxels, how.get("affine", image.affine))
    if axes := how.get("axes"):
        new = new.as_reoriented(
            nib.orientations.ornt_transform(
                nib.io_orientation(new.affine), nib.orientations.axcodes2ornt(axes)
            )
        )
    nib.save(new, path)


@pytest.mark.parametrize("config", [BASELINE, STANDARD], ids=["baseline", "standard"])
def test_a_modality_and_a_mask_in_other_axes_are_turned(
    one_case: Path, config: PreprocessConfig
) -> None:
    config = dataclasses.replace(config, min_labelled_share=0.0)
    expected = preprocess.preprocess_case(only_case(one_case), config)
    assert expected.remarks == ()
    changed(file_of(one_case, "t2"), axes="RAS")
    changed(file_of(one_case, "seg"), axes="SPL")
    got = preprocess.preprocess_case(only_case(one_case), config)
    assert np.array_equal(got.image_HWDC, expected.image_HWDC)
    assert np.array_equal(got.label_HWD, expected.label_HWD)
    assert got.geometry == expected.geometry
    assert got.remarks[0] == "t2: stored in another orientation than t1ce, and turned"


def test_micrometres_between_affines_are_told_and_taken(one_case: Path) -> None:
    affine = nib.load(file_of(one_case, "t2")).affine.copy()
    affine[0, 3] += 0.004
    changed(file_of(one_case, "t2"), affine=affine)
    prepared = preprocess.preprocess_case(only_case(one_case), STANDARD)
    assert prepared.remarks == ("t2: its grid is up to 0.004 mm off that of t1ce",)


def test_forms_of_a_header_that_disagree_are_told(one_case: Path) -> None:
    expected = preprocess.preprocess_case(only_case(one_case), STANDARD)
    for kind in ("t1ce", "t2", "flair", "seg"):
        image = nib.load(file_of(one_case, kind))
        elsewhere = image.affine.copy()
        elsewhere[0, 3] += 7
        image.set_sform(image.affine, 2)
        image.set_qform(elsewhere, 1)
        file_of(one_case, kind).write_bytes(gzip.compress(image.to_bytes()))
    got = preprocess.preprocess_case(only_case(one_case), STANDARD)
    assert "t2: its qform and sform are up to 7 mm apart, the sform is read" in got.remarks
    assert np.array_equal(got.image_HWDC, expected.image_HWDC)
    assert got.geometry.native_affine == expected.geometry.native_affine


@pytest.mark.parametrize("config", [BASELINE, STANDARD], ids=["baseline", "standard"])
@pytest.mark.parametrize(
    "change",
    [lambda v: v + 1000, lambda v: np.where(v == 0, -1024, v), lambda v: np.where(v, v, np.nan)],
    ids=["offset", "air", "NaN"],
)
def test_another_background_gives_the_same_arrays(
    one_case: Path, config: PreprocessConfig, change: object
) -> None:
    config = dataclasses.replace(config, min_labelled_share=0.0)
    expected = preprocess.preprocess_case(only_case(one_case), config)
    for kind in ("t1ce", "flair"):
        voxels = load(one_case, kind).astype(np.float32)
        changed(file_of(one_case, kind), voxels=change(voxels))  # type: ignore[operator]
    got = preprocess.preprocess_case(only_case(one_case), config)
    assert np.allclose(got.image_HWDC, expected.image_HWDC, atol=2e-3)
    assert np.array_equal(got.label_HWD, expected.label_HWD)
    assert len(got.remarks) in (2, 3, 4)


def test_one_image_under_two_names_is_rejected(one_case: Path) -> None:
    file_of(one_case, "t2").write_bytes(file_of(one_case, "t1ce").read_bytes())
    with pytest.raises(CaseRejected, match="t2 is the image of t1ce once more"):
        preprocess.preprocess_case(only_case(one_case), STANDARD)


def test_a_scan_is_not_made_larger_than_stated(one_case: Path) -> None:
    for kind in ("t1ce", "t2", "flair", "seg"):
        changed(file_of(one_case, kind), affine=np.diag([-20.0, -20, 20, 1]))
    config = dataclasses.replace(STANDARD, spacing_mm=(1, 1, 1))
    with pytest.raises(CaseRejected, match="at most 67108864 voxels"):
        preprocess.preprocess_case(only_case(one_case), config)


def test_skulls_are_taken_where_the_recipe_allows_them(one_case: Path) -> None:
    noise = np.random.default_rng(0)
    for kind in ("t1ce", "t2", "flair"):
        voxels = load(one_case, kind)
        air = noise.integers(0, 60, voxels.shape)
        changed(file_of(one_case, kind), voxels=np.where(voxels, voxels, air).astype(np.int16))
    with pytest.raises(CaseRejected, match="t1ce looks as if it were not skull-stripped"):
        preprocess.preprocess_case(only_case(one_case), STANDARD)
    config = dataclasses.replace(STANDARD, allow_skull=True)
    prepared = preprocess.preprocess_case(only_case(one_case), config)
    assert prepared.image_HWDC.shape[:3] == load(one_case, "t2").shape
