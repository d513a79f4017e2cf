"""Attacks, as whoever could make them: each fails here because Comet withstands it."""
