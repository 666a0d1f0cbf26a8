"""Scans: their names, their files and their voxels, found, judged and prepared.

Doors: cohort, case, splits, naming, volume, nifti, geometry, preprocess, inspection, phantom.
Never here: a framework, a process, a decision about a model.
"""
