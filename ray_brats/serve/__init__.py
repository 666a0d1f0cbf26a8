"""Serving: an HTTP endpoint over Ray Serve that turns the files of a case into its mask.

limits, uploads    what may come in, judged while it streams
access             API keys, and case names that logs may hold
replica            the model in a process that keeps it loaded: `predict.Predictor`
jobs_store, jobs   work that outlives every process
app, telemetry     the HTTP application; knows no Ray, so its tests need none
deploy             all of it under Ray Serve
page               static files: the page's HTML, style and modules; `page/vendor/` is fetched
niivue             fetches the optional 3-D viewer into the page
"""
