"""Turns the config into replica specs: the built-in worker, load balancers, a custom service."""
