"""The whole configuration of a training: its fields, its JSON, the named ones, their costs.

Doors: config, jsonform, named, costs.
Never here: anything that is computed from voxels.
"""
