"""A web server on the loopback address with the faults of real ones."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Behaviour:
    """What the server does; the requests are recorded."""

    content: bytes = b""
    etag: str = '"1"'
    ranges: bool = True  # whether parts of the file are sent
    closes_after: list[int] = field(default_factory=list)  # bytes, per response
    length: int | None = 0  # added to Content-Length; None: no such header
    status: int = 200
    location: str = ""  # of a redirect from any path but /moved/...
    content_type: str = "application/octet-stream"
    pauses: bool = False  # after half of the content, as long as this is true
    bytes_per_second: int = 0
    wrong_range: bool = False
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path and range


class Handler(BaseHTTPRequestHandler):
    """Answers with the content of ``server.behaviour`` for every path."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        b = self.server.behaviour
        b.requests.append((self.path, self.headers["Range"]))
        if b.status != 200:
            self.send_error(b.status)
            return
        if b.location and not self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", b.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if match and b.ranges and self.headers["If-Range"] == b.etag:
            start = int(match[1])
        body = b.content[start:]
        self.send_response(206 if start else 200)
        if start:
            first = start + 1 if b.wrong_range else start
            self.send_header("Content-Range", f"bytes {first}-{len(b.content) - 1}/{len(b.content)}")
        if b.length is not None:
            self.send_header("Content-Length", str(len(body) + b.length))
        self.send_header("Content-Type", b.content_type)
        if b.etag:
            self.send_header("ETag", b.etag)
        self.end_headers()
        self.send_body(b, body)

    def send_body(self, b, body):
        if b.closes_after:
            body = body[: b.closes_after.pop(0)]
        if b.bytes_per_second:
            with contextlib.suppress(OSError):
                for i in range(len(body)):
                    self.wfile.write(body[i : i + 1])
                    if self.server.stopped.wait(1 / b.bytes_per_second):
                        return
        elif b.pauses:
            self.wfile.write(body[: len(body) // 2])
            while b.pauses and not self.server.stopped.wait(0.01):
                pass
            with contextlib.suppress(OSError):  # the client may have disconnected
                self.wfile.write(body[len(body) // 2 :])
        else:
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Ignore clients that have disconnected: the message would be in the output of a later test."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class LoopbackServer:
    """Context manager: the server with its address in ``url`` and its faults in ``behaviour``."""

    def __enter__(self):
        self.http = _Server(("127.0.0.1", 0), Handler)
        self.http.stopped = threading.Event()
        self.http.behaviour = self.behaviour = Behaviour()
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.http.stopped.set()
        self.http.shutdown()
        self.thread.join(60)
        self.http.server_close()


def wait_for(condition, seconds=60.0):
    """Wait until ``condition()`` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.01)
