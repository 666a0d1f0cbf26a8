"""Bytes, wherever they lie: storage, the ledger of finished work, claims and second attempts.

Doors: storage, local, folders, ledger, retry, claims.
Never here: voxels, or what a file is about.
"""
