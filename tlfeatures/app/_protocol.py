"""Connections of clients that must send the headers of their requests in time."""

from __future__ import annotations

from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["TimedProtocol", "make_protocol"]


class TimedProtocol(H11Protocol):
    """A connection that is closed if the headers of a request do not arrive in time."""

    header_seconds = 10.0
    _header_timer: Any = None

    def connection_made(self, transport: Any) -> None:
        """Start the time for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Start or stop the time for the headers of a request."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time."""
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._header_timer is None and not self.transport.is_closing():
            self._header_timer = self.loop.call_later(self.header_seconds, self._close)

    def _stop(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _close(self) -> None:
        self._header_timer = None
        if self.conn.their_state is h11.IDLE and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()


def make_protocol(header_seconds: float) -> type[TimedProtocol]:
    """Make the class of connections with a limit of the time for headers."""
    return type("LimitedProtocol", (TimedProtocol,), {"header_seconds": header_seconds})
