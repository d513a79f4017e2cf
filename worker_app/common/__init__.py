"""Errors, identity, set-up and protection of the worker's process."""
