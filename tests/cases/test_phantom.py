"""Phantoms: reproducible, shaped like BraTS, and not to be had by a threshold."""

import gzip
import io
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from classes import CLASS_COUNT, EDEMA, ENHANCING, NECROTIC, REGIONS, region_mask
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_brats.cases.phantom import (
    ARCHIVE_SHAPE_VOX,
    MODALITIES,
    Phantom,
    make_phantom,
    phantom_archive,
    write_cohort,
)
from ray_brats.errors import UsageError
from ray_brats.labels import BACKGROUND, to_class_index
from ray_brats.recipes.tasks import TASKS

SHAPE_VOX = (64, 64, 48)
CASES = 12


@pytest.fixture(scope="module")
def cohort() -> list[Phantom]:
    return [make_phantom(index, shape_vox=SHAPE_VOX) for index in range(1, CASES + 1)]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_equal_arguments_give_equal_voxels() -> None:
    first, second = (make_phantom(3, shape_vox=SHAPE_VOX, seed=5) for _ in range(2))
    assert first.case_id == second.case_id
    assert np.array_equal(first.label, second.label)
    for modality in MODALITIES:
        assert np.array_equal(first.images[modality], second.images[modality])


def test_index_and_seed_make_other_cases() -> None:
    labels = [
        make_phantom(index, shape_vox=SHAPE_VOX, seed=seed).label.tobytes()
        for index, seed in ((1, 0), (2, 0), (1, 1))
    ]
    assert len(set(labels)) == 3


def test_an_image_does_not_depend_on_which_others_are_drawn(cohort: list[Phantom]) -> None:
    alone = make_phantom(1, shape_vox=SHAPE_VOX, modalities=("t1", "flair"))
    assert list(alone.images) == ["t1", "flair"]
    assert np.array_equal(alone.images["flair"], cohort[0].images["flair"])


def test_types_shapes_and_lps_affine(cohort: list[Phantom]) -> None:
    for phantom in cohort:
        assert tuple(phantom.images) == MODALITIES
        assert all(image.dtype == np.int16 for image in phantom.images.values())
        assert all(image.shape == SHAPE_VOX for image in phantom.images.values())
        assert phantom.label.dtype == np.uint8
        assert phantom.label.shape == SHAPE_VOX
        assert nib.aff2axcodes(phantom.affine) == ("L", "P", "S")


def test_the_affine_of_240_rows_is_that_of_brats() -> None:
    affine = make_phantom(1, shape_vox=(24, 240, 24), modalities=()).affine
    assert affine.dtype == np.float64
    assert affine.tolist() == [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_the_background_is_zero_and_the_brain_is_one_mask(cohort: list[Phantom]) -> None:
    for phantom in cohort:
        brain = phantom.images["flair"] != 0
        assert all(np.array_equal(image != 0, brain) for image in phantom.images.values())
        assert all(int(image.min()) == 0 for image in phantom.images.values())
        assert not phantom.label[~brain].any()
        assert 0.14 < brain.mean() < 0.22  # a real brain fills 0.14 to 0.20
        for axis in range(3):
            edges = np.take(brain, (0, -1), axis)
            assert not edges.any()


def test_tumours_are_a_realistic_share_of_the_brain(cohort: list[Phantom]) -> None:
    for phantom in cohort:
        brain = phantom.images["flair"] != 0
        assert 0.02 < region_mask(phantom.label, "WT").sum() / brain.sum() < 0.12


def test_every_class_is_present_and_regions_are_nested(cohort: list[Phantom]) -> None:
    assert {int(value) for p in cohort for value in np.unique(p.label)} == set(range(CLASS_COUNT))
    for phantom in cohort:
        whole, core, enhancing = (region_mask(phantom.label, region) for region in REGIONS)
        assert enhancing.any()
        assert not (enhancing & ~core).any()
        assert not (core & ~whole).any()
        assert (whole & ~core).any()


def test_one_case_in_six_resembles_a_low_grade_glioma(cohort: list[Phantom]) -> None:
    def enhancing_share(phantom: Phantom) -> float:
        core = region_mask(phantom.label, "TC").sum()
        return float((phantom.label == ENHANCING).sum() / core)

    shares = [enhancing_share(phantom) for phantom in cohort]
    assert 0 < shares[4] < 0.1
    assert shares[10] == 1.0
    assert all(0.3 < share < 0.7 for i, share in enumerate(shares) if i not in (4, 10))


def test_intensity_scales_differ_widely(cohort: list[Phantom]) -> None:
    peaks = [int(image.max()) for phantom in cohort for image in phantom.images.values()]
    assert 195 <= min(peaks) < 500
    assert 8_000 < max(peaks) <= 20_000


def test_contrast_of_the_tissues_is_that_of_the_modalities(cohort: list[Phantom]) -> None:
    def mean(phantom: Phantom, modality: str, tissue: int) -> float:
        return float(phantom.images[modality][phantom.label == tissue].mean())

    for phantom in cohort[:4]:
        brain = phantom.images["flair"] != 0
        healthy = brain & (phantom.label == BACKGROUND)
        median = {m: float(np.median(image[healthy])) for m, image in phantom.images.items()}
        assert mean(phantom, "flair", EDEMA) > 1.3 * median["flair"]
        assert mean(phantom, "t2", EDEMA) > 1.3 * median["t2"]
        assert mean(phantom, "t1ce", EDEMA) < 1.1 * median["t1ce"]
        assert mean(phantom, "t1ce", ENHANCING) > 1.4 * median["t1ce"]
        assert mean(phantom, "t1ce", NECROTIC) < 0.75 * median["t1ce"]
        assert mean(phantom, "t2", NECROTIC) > 1.5 * median["t2"]
        assert mean(phantom, "flair", NECROTIC) < 0.8 * mean(phantom, "flair", EDEMA)


def test_no_threshold_on_flair_finds_the_tumour(cohort: list[Phantom]) -> None:
    oracle, normalised = [], []
    for phantom in cohort:
        flair = phantom.images["flair"]
        values, truth = flair[flair != 0].astype(float), phantom.label[flair != 0] != BACKGROUND
        cuts = np.quantile(values, np.linspace(0.3, 0.999, 100))
        oracle.append(max(dice(values > cut, truth) for cut in cuts))
        normalised.append(((values - values.mean()) / values.std(), truth))
    assert float(np.mean(oracle)) < 0.55
    assert max(oracle) < 0.65
    common = [
        np.mean([dice(values > cut, truth) for values, truth in normalised])
        for cut in np.linspace(-0.5, 2.5, 31)
    ]
    assert float(max(common)) < 0.55


def test_t2_tells_the_tumour_from_what_else_is_bright_on_flair(cohort: list[Phantom]) -> None:
    for phantom in cohort:
        flair, t2 = phantom.images["flair"], phantom.images["t2"]
        brain = flair != 0
        bright = brain & (flair > np.quantile(flair[brain], 0.93))
        decoy, edema = bright & (phantom.label == BACKGROUND), bright & (phantom.label == EDEMA)
        assert decoy.sum() > 100
        assert np.median(t2[edema]) > 1.35 * np.median(t2[decoy])


@settings(max_examples=10, deadline=None)
@given(st.tuples(*[st.integers(24, 56)] * 3), st.integers(0, 2**40), st.integers(0, 2_000))
def test_any_shape_and_seed_works(shape_vox: tuple[int, int, int], seed: int, index: int) -> None:
    phantom = make_phantom(index, shape_vox=shape_vox, seed=seed, modalities=("t2",))
    brain = phantom.images["t2"] != 0
    assert phantom.label.shape == brain.shape == shape_vox
    assert 0.02 < (phantom.label != BACKGROUND).sum() / brain.sum() < 0.12


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"modalities": ("t1ce", "dwi")}, "dwi"),
        ({"shape_vox": (64, 64, 16)}, "shape_vox"),
        ({"shape_vox": (64, 64)}, "shape_vox"),
        ({"seed": -1}, "seed"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        make_phantom(1, **arguments)  # type: ignore[arg-type]


def test_a_cohort_is_laid_out_as_the_2020_release(tmp_path: Path) -> None:
    case_ids = write_cohort(tmp_path, cases=2, shape_vox=SHAPE_VOX)
    assert case_ids == ["BraTS20_Training_001", "BraTS20_Training_002"]
    assert sorted(files_of(tmp_path)) == [
        f"{case_id}/{case_id}_{name}.nii.gz"
        for case_id in case_ids
        for name in ("flair", "seg", "t1ce", "t2")
    ]


def test_files_hold_what_was_drawn(tmp_path: Path, cohort: list[Phantom]) -> None:
    case_id = write_cohort(tmp_path, cases=1, shape_vox=SHAPE_VOX)[0]
    for name in (*MODALITIES, "seg"):
        image = nib.load(tmp_path / case_id / f"{case_id}_{name}.nii.gz")
        stored = np.asanyarray(image.dataobj)
        assert image.header["qform_code"] == image.header["sform_code"] == 1
        assert image.header.get_zooms() == (1, 1, 1)
        assert np.array_equal(image.affine, cohort[0].affine)
        assert np.array_equal(image.header.get_qform(), cohort[0].affine)
        if name == "seg":
            assert stored.dtype == np.uint8
            assert np.unique(stored).tolist() == [0, 1, 2, 4]
            assert np.array_equal(to_class_index(stored, TASKS["gli-2020"]), cohort[0].label)
        else:
            assert stored.dtype == np.int16
            assert np.array_equal(stored, cohort[0].images[name])


def test_files_are_the_same_bytes_each_time_with_no_clock_or_name(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_cohort(tmp_path / folder, cases=1, shape_vox=SHAPE_VOX)
    first, second = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    assert first == second
    for name, content in first.items():
        assert content[3] == 0, name  # no flag: no file name
        assert content[4:8] == bytes(4), name  # modification time
        assert len(gzip.decompress(content)) > 352


def test_what_exists_is_left_alone_and_what_is_missing_is_made_again(tmp_path: Path) -> None:
    case_ids = write_cohort(tmp_path, cases=2, shape_vox=SHAPE_VOX)
    before = files_of(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")}
    assert write_cohort(tmp_path, cases=2, shape_vox=SHAPE_VOX) == case_ids
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")} == times
    (tmp_path / case_ids[1] / f"{case_ids[1]}_t2.nii.gz").unlink()
    write_cohort(tmp_path, cases=2, shape_vox=SHAPE_VOX)
    assert files_of(tmp_path) == before


def test_a_failed_write_leaves_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="no space"):
        write_cohort(tmp_path, cases=1, shape_vox=(32, 32, 32))
    assert files_of(tmp_path) == {}


def test_the_archive_is_one_phantom_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    content = phantom_archive()
    phantom_archive.cache_clear()
    assert phantom_archive() == content
    (case_id,) = write_cohort(tmp_path, cases=1, shape_vox=ARCHIVE_SHAPE_VOX)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == [f"{case_id}_{name}.nii.gz" for name in MODALITIES]
        for name in archive.namelist():
            assert archive.read(name) == (tmp_path / case_id / name).read_bytes()
