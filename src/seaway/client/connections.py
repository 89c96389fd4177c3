"""Connections that a client may use from any number of threads."""

from __future__ import annotations

import ssl
import threading
import weakref

import httpx


class PerThread(httpx.BaseTransport):
    """A pool of connections for each thread that sends a request, closed with the thread or with the client.

    httpcore 1.0.9 can close a connection of a shared pool in one thread while another has just sent a request on it
    (encode/httpcore#1110): the request fails, or waits until its timeout. A pool that one thread uses can't.
    """

    def __init__(self, verify: ssl.SSLContext) -> None:
        self._verify = verify
        self._mine = threading.local()
        self._all: weakref.WeakSet[_Pool] = weakref.WeakSet()
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        pool: _Pool | None = getattr(self._mine, "pool", None)
        if pool is None:
            pool = self._mine.pool = _Pool(self._verify)
            with self._lock:
                self._all.add(pool)
        return pool.transport.handle_request(request)

    def close(self) -> None:
        with self._lock:
            pools = list(self._all)
            self._all.clear()
        for pool in pools:
            pool.transport.close()


class _Pool:
    """One thread's; the thread's end drops it, and with it goes what it holds open."""

    def __init__(self, verify: ssl.SSLContext) -> None:
        self.transport = httpx.HTTPTransport(verify=verify)

    def __del__(self) -> None:
        self.transport.close()
