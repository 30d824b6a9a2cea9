"""Stream sockets that wait for the other side's end before they close, so that it gets what we said last."""

import socket

from kwire.transport.loop import READ, Loop, Timer

LINGER = 2.0
"""Seconds that a finished stream waits for the other side's end."""

MAX_LINGERING = 256


class Lingering:
    """A socket to be closed when the other side has closed, or after a while; what still comes is dropped.

    Closing a socket that has unread bytes resets the connection, and takes what we said last from the other
    side: a refusal, an alert, the last ACK. At most `MAX_LINGERING` linger in a loop; others close at once.
    """

    __slots__ = ("_loop", "_socket", "_timer")

    def __init__(self, loop: Loop, connected: socket.socket) -> None:
        self._loop = loop
        self._socket = connected
        self._timer: Timer | None = None
        try:
            connected.shutdown(socket.SHUT_WR)
        except OSError:
            connected.close()
            return
        if len(loop.lingering) >= MAX_LINGERING:
            connected.close()
            return
        loop.lingering[connected.fileno()] = self._close
        loop.add(connected.fileno(), READ, self._swallow)
        self._timer = loop.at(loop.now() + LINGER, self._close)

    def _swallow(self, mask: int) -> None:
        try:
            count = socket.socket.recv_into(self._socket, self._loop.buffer)  # beneath TLS, which is over
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self._close()

    def _close(self) -> None:
        self._loop.lingering.pop(self._socket.fileno(), None)
        self._loop.cancel(self._timer)
        self._loop.remove(self._socket.fileno())
        self._socket.close()
