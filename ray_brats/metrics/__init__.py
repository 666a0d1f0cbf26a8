"""The numbers by which two masks are compared, and their summaries.

Doors: scores, summary, comparison, original.
Never here: files, a framework, a figure.
"""
