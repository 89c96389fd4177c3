"""Seaway takes a trained model from a file to trusted production traffic."""

__version__ = "0.1.0"
