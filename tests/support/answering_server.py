"""A small HTTP server that answers completions: senders are tested without a model."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], "tuple[int, Any]"]


class AnsweringServer(ThreadingHTTPServer):
    """Answers each POST with what `answer` makes of its body: a status and a document.

    Attributes:
        asked: the bodies, in the order of their arrival.
        most: how many were under way at a time.
    """

    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.asked: list[dict[str, Any]] = []
        self.most = 0
        self.under_way = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: AnsweringServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body)
            self.server.under_way += 1
            self.server.most = max(self.server.most, self.server.under_way)
        try:
            status, document = self.server.answer(body)
        finally:
            with self.server.lock:
                self.server.under_way -= 1
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextlib.contextmanager
def answering(answer: Answer) -> Iterator[AnsweringServer]:
    """A server that runs until the block ends."""
    server = AnsweringServer(answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
