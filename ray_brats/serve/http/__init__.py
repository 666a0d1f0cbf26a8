"""The HTTP side of the service: the application, its gate, keys, bodies and documents.

Doors: app, access, gate.
Never here: a model, a stage, or Ray.
"""
