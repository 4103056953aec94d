"""Requests sent to a server such that its slots are never empty, and their answers recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from flexinfer.batch.requests import BadLine, Request
from flexinfer.batch.results import Results
from flexinfer.errors import EngineError

# So many more than there are slots wait at the server: a slot that comes free has one at once.
_WAITING = 2
# A server's own failure, such as a drive that did not answer, is asked again so often.
_RETRIES = 2
_BACKOFF_SECONDS = 1.0
_CONNECT_SECONDS = 10.0

Answered = Callable[[Any], None]


class Sender:
    """Posts requests to the server at `url`, at most `slots` and a few at a time, in order.

    Args:
        url: of the server, without the route.
        key: that it asks for, if it does.
        answered: is told the body of each answer.
        stopped: whether what is under way is to be given up, and not recorded.

    An answer that says the request was wrong (HTTP 4xx) is a result like any other.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        slots: int,
        answered: Answered,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._url = url
        self._width = slots + _WAITING
        self._answered = answered
        self._stopped = stopped

    def send(self, asked: Iterable[Request | BadLine], results: Results) -> None:
        """Return once each of `asked` has a record.

        Raises:
            EngineError: the server went away; what is recorded stays.
            RequestError: a record could not be written.
        """
        asyncio.run(self._send(iter(asked), results))

    async def _send(self, asked: Iterator[Request | BadLine], results: Results) -> None:
        async with self._client() as client:
            workers = [
                asyncio.create_task(self._work(client, asked, results)) for _ in range(self._width)
            ]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        # An answer takes as long as it takes; the server itself watches the drive.
        timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
        limits = httpx.Limits(max_connections=self._width)
        async with httpx.AsyncClient(
            base_url=self._url,
            headers=self._headers,
            timeout=timeout,
            limits=limits,
            trust_env=False,
        ) as client:
            yield client

    async def _work(
        self, client: httpx.AsyncClient, asked: Iterator[Request | BadLine], results: Results
    ) -> None:
        for one in asked:
            if self._stopped():
                return
            if results.has(one):
                continue
            if isinstance(one, BadLine):
                results.add_error(one, "invalid_line", one.why)
                continue
            response = await self._post(client, one)
            if response is None or self._stopped():
                return
            body = _body(response)
            results.add_answer(one, response.status_code, body)
            self._answered(body)

    async def _post(self, client: httpx.AsyncClient, request: Request) -> httpx.Response | None:
        for attempt in range(_RETRIES + 1):
            try:
                response = await client.post(request.url, json=request.body)
            except httpx.TransportError as error:
                if self._stopped():
                    return None
                raise EngineError(
                    f"the server went away at line {request.line}: "
                    f"{error or type(error).__name__}; the same command goes on"
                ) from error
            if response.status_code < 500 or attempt == _RETRIES or self._stopped():
                break
            await asyncio.sleep(_BACKOFF_SECONDS * (attempt + 1))
        return response


def _body(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return {"error": {"message": response.text, "type": "server_error"}}
