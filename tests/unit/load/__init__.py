"""The load that Comet makes."""
