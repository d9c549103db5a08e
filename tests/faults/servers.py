"""Places a store can lie at, on this machine: a web server that knows ranges, and an S3 server (moto)."""

import http.server
import importlib.util
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

SECRET = "wJalr-verysecret-EXAMPLEKEY"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE7", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}


class Web:
    """A web server for one folder. `sent` counts the bytes of bodies, `asked` keeps the requests."""

    def __init__(self, root, delay_s=0.0, piece=65536, authorization=""):
        self.root, self.delay_s, self.piece, self.authorization = Path(root), delay_s, piece, authorization
        self.sent, self.asked = 0, []
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def log_message(self, *words):
                pass

            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def answer(self, body):
                web.asked.append((self.command, self.path, self.headers.get("Range", "")))
                path = web.root / self.path.lstrip("/")
                if web.authorization and self.headers.get("Authorization") != web.authorization:
                    return self.end(401)
                if not path.is_file():
                    return self.end(404)
                size, code = path.stat().st_size, 200
                first, last = 0, size - 1
                if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                    first, last, code = int(found[1]), min(int(found[2] or last), last), 206
                if first > last:
                    return self.end(416)
                self.send_response(code)
                self.send_header("Content-Length", str(last + 1 - first))
                if code == 206:
                    self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
                self.end_headers()
                if body:
                    with open(path, "rb") as file:
                        file.seek(first)
                        while first <= last:
                            piece = file.read(min(web.piece, last + 1 - first))
                            self.wfile.write(piece)
                            web.sent += len(piece)
                            first += len(piece)
                            time.sleep(web.delay_s)
                return None

            def end(self, code):
                self.send_response(code)
                self.send_header("Content-Length", "0")
                self.end_headers()

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, address):
                pass  # a reader that was killed

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def served(root, **named):
    """A folder behind a web server."""
    web = Web(root, **named)
    try:
        yield web
    finally:
        web.close()


@contextmanager
def moto():
    """The address of an S3 server with a bucket called `lab`; skips where there is no moto."""
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
        pytest.skip("no S3 server: moto[server] is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = "import sys; from moto.server import main; main(sys.argv[1:])"
    words = [sys.executable, "-c", run, "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                bucket = urllib.request.Request(f"http://127.0.0.1:{port}/lab", method="PUT")
                urllib.request.urlopen(bucket, timeout=30).close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None, "the S3 server ended"
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def contents(folder):
    """Relative path -> bytes of every file below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}
