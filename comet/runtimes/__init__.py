"""Code for all runtimes: finding what of a cluster is alive, the records for that, and the logs.

A cluster's parts are found without its supervisor.
"""
