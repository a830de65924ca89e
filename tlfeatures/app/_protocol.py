"""Connections of clients that must send the headers of requests, and read the answers, in time."""

from __future__ import annotations

from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tlfeatures.app._limits import Limits

__all__ = ["TimedProtocol", "make_protocol"]


class TimedProtocol(H11Protocol):
    """A connection that is closed if the headers of a request do not arrive, or an answer is not read, in time."""

    header_seconds = Limits.header_seconds
    body_seconds = Limits.body_seconds
    _header_timer: Any = None
    _answer_timer: Any = None

    def connection_made(self, transport: Any) -> None:
        """Start the time for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Start or stop the time for the headers of a request."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the times."""
        self._stop()
        self._stop_answer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the time for reading an answer that does not fit into the buffer of the connection."""
        super().pause_writing()
        self._answer_timer = self.loop.call_later(self.body_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the time for reading an answer, which the client has read."""
        self._stop_answer()
        super().resume_writing()

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._header_timer is None and not self.transport.is_closing():
            self._header_timer = self.loop.call_later(self.header_seconds, self._close)

    def _stop(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _stop_answer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _close(self) -> None:
        self._header_timer = None
        if self.conn.their_state is h11.IDLE and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()


def make_protocol(limits: Limits) -> type[TimedProtocol]:
    """Make the class of connections with the times of the limits."""
    times = {"header_seconds": limits.header_seconds, "body_seconds": limits.body_seconds}
    return type("LimitedProtocol", (TimedProtocol,), times)
