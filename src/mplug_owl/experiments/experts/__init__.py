"""Systematic collaboration: nothing learns, experts turn a picture into words, and a language model answers from them."""
