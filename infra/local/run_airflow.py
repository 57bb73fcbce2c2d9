"""Airflow on this machine with the project's DAGs: `make airflow`, stopped by Ctrl-C.

    python infra/local/run_airflow.py [--port 8080]

Database (SQLite), logs, password and secrets are in AIRFLOW_HOME, by default `airflow/` of
HOUNSFIELD_HOME. What is set as `AIRFLOW__SECTION__KEY` in the environment wins, so another database is
one variable away.
"""

import argparse
import contextlib
import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import psutil

PROJECT = Path(__file__).resolve().parents[2]
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
HEALTH = ("metadatabase", "scheduler", "triggerer", "dag_processor")
"""What Airflow's own health page has to call healthy."""
PATIENCE = 180.0
"""Seconds that all of it may take to become healthy."""
GRACE = 20.0
"""Seconds that what was asked to end has for it."""
SHORT_LIFE = 20.0
"""Seconds; a component that ends sooner three times in a row is not started again."""
HERE = ("localhost", "127.0.0.1")
"""Names of this machine, which no proxy leads to."""
SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2): orphans become children of this process and can be ended."""


class Failed(Exception):
    """Airflow cannot be run; the message says why and what to do."""


class Component:
    """One of Airflow's processes, which is started again when it ends by itself."""

    def __init__(self, name: str, environment: dict[str, str], logs: Path) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self._environment = environment
        self._short_lives = 0
        self.start()

    def start(self) -> None:
        """Start it in a session of its own: Ctrl-C on the terminal is for this process alone."""
        self._started = time.monotonic()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                airflow(self.name), env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def keep_alive(self) -> None:
        """Start it again if it has ended.

        Raises:
            Failed: it ends as soon as it is started.
        """
        if (code := self.process.poll()) is None:
            return
        self._short_lives = self._short_lives + 1 if time.monotonic() - self._started < SHORT_LIFE else 1
        if self._short_lives >= 3:
            raise Failed(
                f"Airflow's {self.name} ends with code {code} whenever it is started: see {self.log}"
            )
        print(f"Airflow's {self.name} ended with code {code} and is started again", flush=True)
        self.start()


def airflow(*arguments: str) -> list[str]:
    """A command of the Airflow that is installed beside this interpreter."""
    return [str(Path(sys.executable).with_name("airflow")), *arguments]


def environment(folder: Path, port: int) -> dict[str, str]:
    """What Airflow reads: this machine's settings, then whatever the caller has set."""
    kept = kept_secrets(folder / "secrets.json")
    settings = {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://localhost:{port}",
        "AIRFLOW__API__SECRET_KEY": kept["session"],
        "AIRFLOW__API_AUTH__JWT_SECRET": kept["token"],
        "AIRFLOW__CORE__AUTH_MANAGER": (
            "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
        ),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__FERNET_KEY": kept["fernet"],
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # More tasks at once than SQLite lets write.
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        # A machine that computes is slow to answer; a task that gets no answer in time is lost.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        # Airflow and MLflow ask nobody outside.
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **dict.fromkeys(("NO_PROXY", "no_proxy"), without_proxy()),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": f"{PROJECT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    given = {key: value for key, value in os.environ.items() if key.startswith("AIRFLOW__")}
    return os.environ | settings | given


def without_proxy() -> str:
    """Who is asked without a proxy: this machine, and whom the caller names."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    return ",".join([*HERE, *filter(None, [given])])


def kept_secrets(path: Path) -> dict[str, str]:
    """The secrets of this installation, made when they are first asked for, readable by their owner."""
    if not path.is_file():
        made = {name: secrets.token_hex(32) for name in ("session", "token")}
        made["fernet"] = urlsafe_b64encode(secrets.token_bytes(32)).decode()
        write_private(path, made)
    kept: dict[str, str] = json.loads(path.read_text())
    return kept


def admin_password(path: Path) -> str:
    """The password of the user admin, made when it is first asked for."""
    if not path.is_file():
        write_private(path, {"admin": secrets.token_urlsafe(9)})
    return str(json.loads(path.read_text())["admin"])


def write_private(path: Path, content: dict[str, str]) -> None:
    """Write JSON, whole or not at all, that nobody else may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps(content) + "\n")
    temporary.rename(path)


def answers(port: int) -> bool:
    """Whether tasks are answered: that part is built, which takes its time, when it is first asked."""
    return _ask(f"http://127.0.0.1:{port}/execution/health") is not None


def is_healthy(port: int) -> bool:
    """Whether Airflow says of all its parts that they are well."""
    health = _ask(f"http://127.0.0.1:{port}/api/v2/monitor/health") or {}
    return all((health.get(part) or {}).get("status") == "healthy" for part in HEALTH)


def _ask(address: str) -> dict[str, Any] | None:
    """The JSON at an address; None if there is none."""
    try:
        # A proxy that the environment names would be asked for this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(address, timeout=60) as answer:
            said: dict[str, Any] = json.load(answer)
    except (OSError, ValueError):
        return None
    return said


def check_port(port: int) -> None:
    """Whether Airflow can listen there.

    Raises:
        Failed: it cannot, as when another program does.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise Failed(f"Airflow cannot listen to port {port} ({error}): use another, PORT=8081") from None


def run(port: int, say: Callable[[str], object]) -> NoReturn:
    """Run Airflow until a signal ends it, which raises SystemExit.

    Raises:
        Failed: it cannot be started, or does not become healthy.
    """
    home = Path(os.environ.get("HOUNSFIELD_HOME") or PROJECT / ".hounsfield").absolute()
    folder = Path(os.environ.get("AIRFLOW_HOME") or home / "airflow").absolute()
    check_port(port)
    settings = environment(folder, port)
    password = admin_password(Path(settings["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]))
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with open(logs / "migrate.log", "wb") as log:
        migrated = subprocess.run(airflow("db", "migrate"), env=settings, stdout=log, stderr=log, check=False)
    if migrated.returncode:
        raise Failed(f"Airflow's database cannot be made or brought up to date: see {log.name}")
    components: list[Component] = []
    # A task that finds nobody to talk to is lost: who starts tasks comes after who answers them.
    for names, is_ready in ((COMPONENTS[:1], answers), (COMPONENTS[1:], is_healthy)):
        components += [Component(name, settings, logs) for name in names]
        deadline = time.monotonic() + PATIENCE
        while not is_ready(port):
            if time.monotonic() > deadline:
                raise Failed(f"Airflow does not become healthy in {PATIENCE:.0f} s: see {logs}")
            watch(components, 0.5)
    say(f"Airflow: http://localhost:{port} (user admin, password {password}); Ctrl-C stops it")
    while True:
        watch(components, 1.0)


def watch(components: list[Component], seconds: float) -> None:
    """Wait a moment; then start again what has ended."""
    time.sleep(seconds)
    for component in components:
        component.keep_alive()


def stop_all() -> None:
    """End everything that this process has started, and what that has started, at whatever depth."""
    deadline = time.monotonic() + GRACE
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(psutil.Process().children(), timeout=max(0.0, deadline - time.monotonic()))
    # Orphans become children of this process, so it is done when there are none.
    while remaining := psutil.Process().children(recursive=True):
        for process in remaining:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(remaining, timeout=1)


def main() -> None:
    """Run Airflow; leave with 0 when it is stopped, with 1 and one sentence when it cannot run."""
    parser = argparse.ArgumentParser(description="Airflow on this machine with the project's DAGs.")
    parser.add_argument("--port", type=int, default=8080, help="of the page and the API (8080)")
    port = parser.parse_args().port
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        run(port, lambda line: print(line, flush=True))
    except Failed as failure:
        sys.exit(str(failure))
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        stop_all()


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()
