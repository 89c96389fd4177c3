"""Metrics, logs and traces: what Seaway says about itself.

    page        one gateway's counters in a mapped file; the hot path records here
    snapshot    what a page held at one moment, and sums over pages
    statistics  the Open Inference Protocol's statistics, from snapshots
    metrics     the Prometheus exposition, from pages and live gauges (control only)
    logs        structured log lines of every process
    trace       W3C trace context, pure

Import the module you need: this door stays empty, because a worker that only wants `logs` must not pay for the rest.
"""
