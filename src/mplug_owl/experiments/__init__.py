"""Experiments: the demo, its story, and the studies that put whole runs together."""
