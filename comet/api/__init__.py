"""Starts and controls clusters from Python: `comet.cluster`, and what the command line shares with it."""
