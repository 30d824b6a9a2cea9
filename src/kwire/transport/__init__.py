"""Sessions of `kwire.wire` over real transports: addresses, the loop, TCP, TLS, Unix sockets, UDP, peers.

Invariants: nothing here blocks but the wait for work; a peer is given bounded work, memory and time; what a
peer sends decides nothing but its own fate.
"""
