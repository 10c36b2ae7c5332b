"""Connections that only wait are closed: uvicorn gives a request's head as long as its sender likes, which holds a place that
others want."""

import asyncio

from uvicorn.protocols.http.auto import AutoHTTPProtocol

SECONDS = 30.0  # between two looks: who has not begun a request since the last is closed


class Connection(AutoHTTPProtocol):
    """uvicorn's protocol, closed when no request has begun in the time between two looks and none is under way."""

    seconds = SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._seen = self.cycle
        self._timer = self.loop.call_later(self.seconds, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        waits = self.cycle is None or self.cycle.response_complete
        if waits and self.cycle is self._seen:
            self.transport.abort()  # there may be half a request to read, and nothing is left to say
            return
        self._seen = self.cycle
        self._timer = self.loop.call_later(self.seconds, self._look)
