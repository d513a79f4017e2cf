"""Results of measurements as tables, pictures and pages, for `compare` and for the benches of the project."""
