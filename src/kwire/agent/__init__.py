"""Agents: a recording and its uplink with a spool, tracing for clients, and those clients."""
