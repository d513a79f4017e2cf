"""The raw findings of a comparison and the statistics derived from them, pure."""
