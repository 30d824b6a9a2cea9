"""Agents and collectors over real transports: the sessions of `kwire.wire` on TCP, TLS, Unix sockets and UDP.

The laws: nothing here blocks but the wait for work; a peer is given bounded work, memory and time; what a
peer sends decides nothing but its own fate.
"""
