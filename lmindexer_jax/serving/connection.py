"""A connection that is closed where it asks nothing: uvicorn would wait for ever, and only so many may be open at a time."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """uvicorn's own; it ends when no request's head has come whole `patience` seconds after it began or was last answered."""

    patience = 10.0

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begins, and with it the time to ask."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self.patience, self._end_if_idle)

    def on_response_complete(self) -> None:
        """Answered, and there is time again; uvicorn's own limit for it ends with the first byte of a request."""
        super().on_response_complete()
        self._deadline.cancel()
        self._deadline = self.loop.call_later(self.patience, self._end_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Over."""
        self._deadline.cancel()
        super().connection_lost(exc)

    def _end_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.timeout_keep_alive_handler()
