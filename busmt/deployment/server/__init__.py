"""A light server for one machine, with the REST predict API of TensorFlow Serving.

rest.py      the JSON forms of the API           batching.py  requests that wait together run together
model.py     the SavedModel and its signatures   app.py       routes, limits, metrics, start and stop
"""
