"""What `make airflow` does before Airflow itself runs; tests/e2e/test_airflow.py runs it."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.local import run_airflow


class Healthy(BaseHTTPRequestHandler):
    """Airflow, as far as its health is asked after."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this machine that is listened to."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that reaches others by way of a proxy, which knows nothing of this one."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed.getsockname()[1]}")


@pytest.mark.usefixtures("proxy")
def test_airflow_s_health_is_not_asked_of_a_proxy(port: int) -> None:
    assert run_airflow.answers(port)


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_whom_the_caller_asks_without_a_proxy_tasks_ask_so_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "store.hospital.example")
    asking = (
        "import urllib.request as u; print(*map(u.proxy_bypass, ('localhost', 'store.hospital.example')))"
    )
    said = subprocess.check_output(
        [sys.executable, "-c", asking], env=run_airflow.environment(tmp_path, 8080), text=True
    )
    assert said.split() in (["True", "True"], ["1", "1"])


def test_a_port_that_another_program_has_is_said_before_anything_is_started(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOUNSFIELD_HOME", str(tmp_path))
    monkeypatch.setattr(run_airflow, "airflow", lambda *_: ["false"])
    with pytest.raises(run_airflow.Failed, match=f"port {port} .*PORT=8081"):
        run_airflow.run(port, print)
    assert list(tmp_path.iterdir()) == []
