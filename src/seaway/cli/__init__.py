"""The command `seaway`. Every command but `serve` is an HTTP client of a running server."""

from seaway.cli.app import main

__all__ = ["main"]
