"""The pytest plugin: clusters as fixtures, and what they did in the report of a test that fails."""
