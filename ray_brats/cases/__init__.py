"""What a scan is: its names, its files and their voxels, as they are found, judged and prepared.

Doors: cohort, case, volume, geometry, preprocess, phantom, splits.
Never here: a framework, a process, a decision about a model.
"""
