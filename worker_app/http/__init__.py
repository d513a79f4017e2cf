"""The Flask application behind waitress on an event loop."""
