"""Scans as they leave the scanner: series told apart, chosen, brought onto one grid, stripped.

Doors: those of `cases`.
Never here: Ray, a model of tumours, or a file of a prepared cohort.
"""
