"""The worker: a Flask application behind waitress that greets, counts exactly and misbehaves on request.

It knows neither the load balancer nor the supervisor. It is told its settings on the command line, its faults by a file and
its database by the environment; it answers HTTP and keeps running whatever the control plane does.
"""
