"""The worker image: its base, its packages, its build."""
