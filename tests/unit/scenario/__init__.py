"""The pure part of scenarios."""
