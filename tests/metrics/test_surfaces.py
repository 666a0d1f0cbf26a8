"""Surfaces of masks: their elements and areas, checked on paper."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ray_brats.metrics import surfaces

from .masks import ANISOTROPIC_MM, UNIT_MM


def test_area_of_flat_faces_is_what_a_ruler_says():
    height, width, depth = ANISOTROPIC_MM
    areas_mm2 = surfaces.surfel_areas_mm2(ANISOTROPIC_MM)
    assert areas_mm2[0b00001111] == pytest.approx(width * depth)
    assert areas_mm2[0b00110011] == pytest.approx(height * depth)
    assert areas_mm2[0b01010101] == pytest.approx(height * width)
    # One voxel in a corner: a triangle that cuts its three edges in the middle.
    cut_mm = np.array(ANISOTROPIC_MM) / 2
    legs_mm = np.diag(cut_mm)
    triangle_mm2 = np.linalg.norm(np.cross(legs_mm[1] - legs_mm[0], legs_mm[2] - legs_mm[0])) / 2
    assert areas_mm2[0b00000001] == pytest.approx(triangle_mm2)


def test_area_of_an_edge_is_a_chamfer():
    height, width, depth = ANISOTROPIC_MM
    chamfer_mm2 = math.hypot(height / 2, width / 2) * depth
    assert surfaces.surfel_areas_mm2(ANISOTROPIC_MM)[0b00000011] == pytest.approx(chamfer_mm2)


def test_every_code_but_empty_and_full_has_an_area():
    areas_mm2 = surfaces.surfel_areas_mm2(UNIT_MM)
    assert (np.flatnonzero(areas_mm2 == 0) == [0, 255]).all()
    assert np.array_equal(areas_mm2, areas_mm2[::-1]), "inside and outside share the surface"


def test_mask_at_the_edge_of_the_volume_has_a_closed_surface():
    mask = np.ones((3, 3, 3), bool)
    assert len(surfaces.surface_of(mask, UNIT_MM).points) == 4**3 - 2**3
