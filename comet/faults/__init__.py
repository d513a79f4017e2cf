"""Manages fault orders: what commands ordered for each worker, and the files from which workers read them."""
