"""Ray itself: the cluster, what fits it, and mapping work over it that survives what dies.

Doors: cluster, capacity, mapping.
Never here: voxels, or what a task does.
"""
