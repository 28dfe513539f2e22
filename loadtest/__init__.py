"""Load on a running service, over HTTP only: nothing here imports the service or the engine.

Run from the checkout, against a server started with ``make serve``: ``python -m loadtest.latency``.
"""
