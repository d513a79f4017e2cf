"""The worker: a Flask application behind waitress that greets, counts requests exactly and injects faults.

It knows neither the load balancer nor the supervisor. Its settings come from the command line, its faults from a file
and its database from the environment. It answers HTTP and keeps running when the control plane stops.
"""
