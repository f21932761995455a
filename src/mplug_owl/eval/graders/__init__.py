"""Graders: from an answer to a grade."""
