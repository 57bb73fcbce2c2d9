"""Make the screenshots of Airflow's pages and, with the argument `report`, that of the evaluation report.

    python docs/make_screenshots.py
    python docs/make_screenshots.py report

Both are looked at by a headless Chromium (`apt-get install chromium`). Airflow is started as `make airflow`
does, with a home of its own; no run is started by it. The report is that which `make demo` has made.
"""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import websocket

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
ORGAN = "abdomen"
FORM = {"organ": "spleen", "source": "s3://hounsfield/incoming/spleen"}
"""What the form is shown with."""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 90.0
"""Seconds that anything may take to appear."""


class Page:
    """A page of a browser, by the DevTools protocol."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=PATIENCE, suppress_origin=True)
        self._sent = 0

    def close(self) -> None:
        """Let go of the page."""
        self._socket.close()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a method of the protocol."""
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._sent:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def open(self, address: str) -> None:
        """Go to an address."""
        self.call("Page.navigate", url=address)

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true, and then until nothing moves any more."""
        wait(lambda: self.evaluate(f"Boolean({expression})"), expression)
        time.sleep(2.5)

    def click(self, selector: str) -> None:
        """Click an element once it is there."""
        self.wait_for(f'document.querySelector("{selector}")')
        self.evaluate(f'element = document.querySelector("{selector}"); element.click(); element.focus()')
        time.sleep(1.5)

    def size(self, width: int, height: int) -> None:
        """Make the window as large, in pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def shoot(self, target: Path) -> None:
        """Save what is seen as a PNG."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        target.write_bytes(base64.b64decode(data))
        print(f"{target}: {target.stat().st_size / 1024:.0f} kB")


def wait(done: Callable[[], Any], what: str) -> Any:
    """What `done` returns once it is true.

    Raises:
        TimeoutError: it does not become true.
    """
    deadline = time.monotonic() + PATIENCE
    while not (value := done()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in {PATIENCE:.0f} s: {what}")
        time.sleep(0.25)
    return value


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def airflow(folder: Path) -> Iterator[tuple[str, str]]:
    """A running Airflow: its address and a token."""
    port = free_port()
    environment = os.environ | {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
    }
    command = [sys.executable, str(ROOT / "infra/local/run_airflow.py"), "--port", str(port)]
    launcher = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert launcher.stdout is not None
        said = launcher.stdout.readline()
        password = said.partition("password ")[2].partition(")")[0]
        address = f"http://127.0.0.1:{port}"
        yield address, _token(address, password)
    finally:
        launcher.send_signal(signal.SIGINT)
        launcher.wait()


def _token(address: str, password: str) -> str:
    body = json.dumps({"username": "admin", "password": password}).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{address}/auth/token", body, headers)) as answer:
        return str(json.load(answer)["access_token"])


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """An empty page of a headless Chromium."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        sys.exit("Chromium is not installed: apt-get install chromium")
    port = free_port()
    flags = [*FLAGS, f"--user-data-dir={folder}", f"--remote-debugging-port={port}", "--window-size=1560,600"]
    chromium = subprocess.Popen(
        [program, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        pages = wait(lambda: _pages(port), "a page of Chromium")
        with closing(Page(pages[0]["webSocketDebuggerUrl"])) as page:
            yield page
    finally:
        chromium.terminate()
        chromium.wait()


def _pages(port: int) -> list[dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=5) as answer:
            return [page for page in json.load(answer) if page["type"] == "page"]
    except OSError:
        return []


def _knows(address: str, token: str, dag: str) -> bool:
    request = urllib.request.Request(
        f"{address}/api/v2/dags/{dag}/details", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except OSError:
        return False
    return True


def report() -> None:
    """The top of the evaluation report of the embedded default, which has to be there."""
    written = ROOT / "reports" / ORGAN / "report.html"
    if not written.is_file():
        sys.exit(f"{written} is not there: make demo")
    with tempfile.TemporaryDirectory() as scratch, browser(Path(scratch) / "chromium") as page:
        page.size(1100, 860)
        page.open(written.as_uri())
        page.wait_for("document.querySelector('h1')")
        page.shoot(PICTURES / "report.png")


def main() -> None:
    """The graph of a retraining, and the form of a new organ."""
    retrain = f"retrain_{ORGAN}"
    with tempfile.TemporaryDirectory() as scratch, airflow(Path(scratch) / "airflow") as (address, token):
        for dag in (retrain, "onboard_organ"):
            wait(lambda dag=dag: _knows(address, token, dag), f"the DAG {dag}")
        with browser(Path(scratch) / "chromium") as page:
            page.call("Network.enable")
            page.call("Network.setCookie", name="_token", value=token, url=address)
            page.open(address)
            page.wait_for("document.body.innerText.includes('Dags')")
            page.evaluate("localStorage.setItem('default_dag_view', JSON.stringify('graph'))")
            page.evaluate(f"localStorage.setItem('{retrain}/open-groups', JSON.stringify(['pipeline']))")
            page.open(f"{address}/dags/{retrain}")
            page.wait_for("document.querySelectorAll('.react-flow__node').length > 9")
            page.click("[aria-label='Collapse Details Panel']")
            page.click("[aria-label='Fit View']")
            # It lies over the last task.
            page.evaluate("document.querySelector('.react-flow__minimap').remove()")
            page.shoot(PICTURES / "airflow_graph.png")
            page.size(1100, 1600)
            page.open(f"{address}/dags/onboard_organ")
            page.click("[aria-label='Trigger Dag']")
            for field, text in FORM.items():
                page.click(f"[role=dialog] [name='element_{field}']")
                page.call("Input.insertText", text=text)
            page.shoot(PICTURES / "airflow_onboard.png")


if __name__ == "__main__":
    report() if sys.argv[1:] == ["report"] else main()
