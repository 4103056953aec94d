"""A server on this machine that speaks as much of the hub's protocol as its client needs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Log:
    """What was asked: (method, path, range) of each request, and bytes of bodies sent."""

    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    sent: int = 0


class FakeHub:
    """Serves one repository from a folder.

    Attributes:
        token: when set, requests without it are refused.
        most: when set, more bytes than that are refused in one answer.
        stall_after: when set, the next download stands still after so many bytes, once.
        revisions: folders of other branches, tags and commits, by name.
        fails: when set, every request ends with this status.
        files_fail: when set, so does every request for the bytes of a file.
    """

    def __init__(self, repo: str, folder: Path) -> None:
        self.repo = repo
        self.folder = folder
        self.log = Log()
        self.token: str | None = None
        self.gated = False
        self.most: int | None = None
        self.stall_after: int | None = None
        self.revisions: dict[str, Path] = {}
        self.fails: int | None = None
        self.files_fail: int | None = None
        self.stalled = threading.Event()
        hub = self

        class Handler(_Handler):
            owner = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def questions(self) -> list[str]:
        """Paths of what was asked about models; the client asks for other things of its own."""
        return [path for _, path, _ in self.log.requests if self.repo in path or "models" in path]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FakeHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        hub, path = self.owner, urlsplit(self.path).path
        hub.log.requests.append((self.command, path, self.headers.get("Range")))
        if hub.fails:
            self._refuse(hub.fails, "")
        elif hub.files_fail and self.command == "GET" and "/resolve/" in path:
            self._refuse(hub.files_fail, "")
        elif hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._refuse(401, "GatedRepo" if hub.gated else "RepoNotFound")
        elif path.startswith(f"/api/models/{hub.repo}"):
            self._api(path)
        elif path.startswith(f"/{hub.repo}/resolve/"):
            revision, _, name = path.split("/resolve/")[1].partition("/")
            self._file(revision, name)
        else:
            self._refuse(404, "RepoNotFound")

    def _api(self, path: str) -> None:
        found = re.search("/(?:revision|tree|paths-info)/([^/]+)", path)
        folder = self._folder(found[1] if found else "main")
        if folder is None:
            self._refuse(404, "RevisionNotFound")
            return
        files = sorted(folder.rglob("*.gguf"))
        if "/tree/" in path or "/paths-info/" in path:
            self._json([self._entry(folder, file) for file in files])
            return
        names = [(file.relative_to(folder).as_posix(), file.stat().st_size) for file in files]
        siblings = [{"rfilename": name, "size": size} for name, size in names]
        self._json({"id": self.owner.repo, "sha": _COMMIT, "siblings": siblings})

    def _folder(self, revision: str) -> Path | None:
        hub, name = self.owner, unquote(revision)
        return hub.folder if name in ("main", _COMMIT) else hub.revisions.get(name)

    def _entry(self, folder: Path, file: Path) -> dict[str, object]:
        name = file.relative_to(folder).as_posix()
        return {"type": "file", "path": name, "size": file.stat().st_size, "oid": _etag(file)}

    def _file(self, revision: str, name: str) -> None:
        folder = self._folder(revision)
        if folder is None or not (folder / name).is_file():
            self._refuse(404, "EntryNotFound" if folder else "RevisionNotFound")
            return
        file = folder / name
        body = file.read_bytes()
        first, last = 0, len(body) - 1
        wanted = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2] or last), last)
        most = self.owner.most
        if self.command == "GET" and most is not None and last - first >= most:
            self._refuse(403, "TooLarge")
            return
        self.send_response(206 if wanted else 200)
        self.send_header("X-Repo-Commit", _commit(unquote(revision)))
        self.send_header("ETag", f'"{_etag(file)}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
        self.end_headers()
        if self.command != "HEAD":
            self._send(body[first : last + 1])

    def _send(self, body: bytes) -> None:
        stop, self.owner.stall_after = self.owner.stall_after, None
        body = body[:stop]
        self.wfile.write(body)
        self.owner.log.sent += len(body)
        if stop is not None:
            self.owner.stalled.set()
            self.rfile.read(1)  # until the other side gives up
            self.close_connection = True

    def _json(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _commit(revision: str) -> str:
    return _COMMIT if revision == "main" else hashlib.sha1(revision.encode()).hexdigest()


def _etag(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
