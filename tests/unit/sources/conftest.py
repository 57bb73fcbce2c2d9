"""A network that breaks, between the tests and the local S3 server."""

import http.client
import json
import random
import socket
import struct
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

from pipeline.sources import sync_prefix

ERRORS = {"500": "InternalError", "503": "SlowDown", "403": "AccessDenied"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        key = unquote(urlsplit(self.path).path).partition("/")[2].partition("/")[2]
        fault = self.server.draw(key)
        if fault in ERRORS:
            self.answer(int(fault), {}, f"<Error><Code>{ERRORS[fault]}</Code></Error>".encode())
        elif fault == "reset":
            self.reset()
        else:
            self.pass_on(key, fault)

    def pass_on(self, key, fault):
        status, headers, body = self.ask(key)
        headers, body = self.server.disguised(headers, body, key)
        half = body[: len(body) // 2]
        if fault in ("flipped", "short"):
            headers = {name: value for name, value in headers.items() if "checksum" not in name.lower()}
            body = half if fault == "short" else half + bytes([body[len(half)] ^ 1]) + body[len(half) + 1 :]
        whole = fault not in ("truncated", "reset in the body", "held")
        self.answer(status, headers, body if whole else half, len(body))
        if fault == "held":
            self.server.reached.set()
            self.server.released.wait()
        elif fault == "reset in the body":
            self.reset()
        self.close_connection |= not whole

    def ask(self, key):
        # Pages of fifty, so that a listing has several.
        path = self.path if key else f"{self.path}&max-keys=50"
        asked = dict(self.headers.items())
        for real, shown in self.server.etags.items():
            if asked.get("If-Match") == f'"{shown}"':
                asked["If-Match"] = f'"{real}"'
        upstream = http.client.HTTPConnection(self.server.upstream)
        try:
            upstream.request("GET", path, headers=asked)
            response = upstream.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            upstream.close()

    def answer(self, status, headers, body, length=None):
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


class Proxy(ThreadingHTTPServer):
    """Passes requests on, and does to the nth GET of a key what `fault(key, nth)` says."""

    daemon_threads = True

    def __init__(self, upstream):
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = urlsplit(upstream).netloc
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.fault = lambda key, nth: ""
        self.etags = {}
        """Real ETags, and what they are shown as."""
        self.gets, self.faults = Counter(), Counter()
        self.reached, self.released = threading.Event(), threading.Event()
        self._lock = threading.Lock()

    @property
    def objects(self):
        """How many GETs there were for each object."""
        return {key: count for key, count in self.gets.items() if key}

    def draw(self, key):
        with self._lock:
            fault = self.fault(key, self.gets[key])
            self.gets[key] += 1
            self.faults[fault] += 1
        return fault

    def break_at_random(self, seed, shares):
        """Draw a fault for each request by seed, key and its number: the order of threads changes nothing."""

        def fault(key, nth):
            drawn = random.Random(f"{seed} {key} {nth}").random()
            for kind, share in shares.items():
                if drawn < share:
                    return kind
                drawn -= share
            return ""

        self.fault = fault

    def disguised(self, headers, body, key):
        for real, shown in self.etags.items():
            headers = {name: value.replace(real, shown) for name, value in headers.items()}
            body = body if key else body.replace(real.encode(), shown.encode())
        return headers, body

    def shutdown_request(self, request):
        # Without the polite end of a stream that the base class sends first, closing can be a reset.
        self.close_request(request)

    def handle_error(self, request, client_address):
        # A client that was killed is no error of the proxy.
        pass


@pytest.fixture
def network(s3_server, bucket, monkeypatch):
    """What boto3 finds instead of the server itself."""
    proxy = Proxy(s3_server.meta.endpoint_url)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    yield proxy
    proxy.released.set()
    proxy.shutdown()
    thread.join()
    proxy.server_close()


class Sync:
    """A folder that is kept equal to `scans/` of the bucket, by way of the network that breaks."""

    def __init__(self, bucket, folder):
        self.bucket, self.target, self.record = bucket, folder / "target", folder / "target.s3.json"

    def __call__(self, prefix="scans", **options):
        options = {"wait": 0.01} | options
        return sync_prefix(self.bucket.url(prefix), self.target, self.record, **options)

    def files(self):
        """The content of every file, by the key of its object."""
        return {
            f"scans/{path.relative_to(self.target).as_posix()}": path.read_bytes()
            for path in self.target.rglob("*")
            if path.is_file()
        }

    def manifest(self):
        return json.loads(self.record.read_text())

    @staticmethod
    def contents(seed, count):
        """Objects of up to 40 kB; the first of ten or more is empty."""
        draw = random.Random(seed)
        folders = ("imagesTr", "labelsTr")
        made = {
            f"scans/{folders[i % 2]}/{i // 2:03}.nii.gz": draw.randbytes(draw.randrange(2, 40_000))
            for i in range(count)
        }
        return made | {next(iter(made)): b""} if count >= 10 else made


@pytest.fixture
def sync(bucket, network, tmp_path):
    return Sync(bucket, tmp_path)
