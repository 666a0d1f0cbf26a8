"""The HTTP side of the service: the application, its gate, keys, bodies and documents.

Doors: app, access.
Never here: a model, or a stage.
"""
