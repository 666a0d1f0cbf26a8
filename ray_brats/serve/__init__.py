"""Serving: an HTTP endpoint and a page over it.

page      static files: the page's HTML, style and modules; `page/vendor/` is fetched
niivue    fetches the optional 3-D viewer into the page
"""
