"""Serving: an HTTP endpoint over Ray Serve that turns the files of a case into its mask.

limits, uploads    what may come in, judged while it streams
access             API keys, and case names that logs may hold
models, replica    the model in a process that keeps it loaded: `predict.Predictor`
jobs_store, jobs   work that outlives every process
cohort_job         a job over a whole cohort: the files of `score`
service, app       the HTTP application; starts no Ray, so its tests need none
gate, telemetry    around it: keys, errors as JSON, the log and the metrics
settings, deploy   all of it under Ray Serve
page               static files: the page's HTML, style and modules; `page/vendor/` is fetched
niivue             fetches the optional 3-D viewer into the page
"""
