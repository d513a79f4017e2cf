"""Wraps what Comet uses of this machine: files, sockets and processes.

Nothing here knows what a cluster is.
"""
