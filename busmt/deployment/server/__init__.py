"""A light server for one machine, with the REST predict API of TensorFlow Serving.

limits.py    what one client may cost          model.py     a version: signatures, metadata
rest.py      the JSON forms of the API         versions.py  which version is served; changes while running
screening.py what an image's header rules out  metrics.py   Prometheus metrics
batching.py  what waits together runs together app.py       addresses, errors, tokens
protocol.py  slow and excess connections       run.py       socket, TLS, start and stop
"""
