"""Serving: an HTTP endpoint over Ray Serve, and a page, that turn the files of a case into a mask.

Doors: deploy (the service), settings (what it is told), limits, http/access (keys).
Never here: a stage, a command, preprocessing or a network of its own.

http   the application, and what may come in, judged while it streams
jobs   work that outlives every process
page   static files: the page's HTML, style and modules
"""
