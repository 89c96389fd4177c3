"""Desired state (registry rows) to actual state (processes and a routing table)."""
