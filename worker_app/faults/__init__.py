"""Faults injected by the worker."""
