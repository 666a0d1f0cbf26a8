"""What is told before a start: doctor, storage, upload, plan and its rates.

Doors: one function a command.
Never here: work on cases.
"""
