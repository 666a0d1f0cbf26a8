"""From a dataset to a run: batches, steps, checkpoints, the log and the export.

Doors: loop, data, run, log, export.
Never here: Ray; whoever starts ranks is in `stages`.
"""
