"""Exams: what an owl is asked, how its answers are graded, what is reported."""
