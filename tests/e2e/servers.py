"""The servers that Airflow works with, as processes of their own: PostgreSQL and an S3 store."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

POSTGRESQL = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")
"""Where packages put `initdb`, which is not on the path of Debian and Red Hat."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(done: Callable[[], Any], seconds: float, what: str, pause: float = 0.25) -> Any:
    """What `done` returns once that is true; fails, naming `what`, if it takes longer."""
    deadline = time.monotonic() + seconds
    while not (value := done()):
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds:.0f} s"
        time.sleep(pause)
    return value


def postgresql_binaries() -> Path:
    for pattern in POSTGRESQL:
        found = sorted(Path("/").glob(pattern.removeprefix("/")))
        if found and (found[-1] / "initdb").is_file():
            return found[-1]
    if initdb := shutil.which("initdb"):
        return Path(initdb).parent
    pytest.skip("no PostgreSQL server on this machine: apt-get install postgresql")


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """A new PostgreSQL server on a free port of this machine; its URL for SQLAlchemy."""
    binaries, port = postgresql_binaries(), free_port()
    # In a folder of its own: the server refuses to run as root, and another user must get there.
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        as_user: list[str] = []
        if os.geteuid() == 0:
            as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
            shutil.chown(folder, "postgres", "postgres")
        data = Path(folder) / "data"

        def run(program: str, *arguments: str) -> None:
            command = [*as_user, str(binaries / program), "--pgdata", str(data), *arguments]
            # Its output goes to a file: the server would keep a pipe open.
            with open(Path(folder) / f"{program}.log", "wb") as log:
                done = subprocess.run(command, cwd=folder, stdout=log, stderr=log, check=False)
            assert done.returncode == 0, Path(log.name).read_text()

        run("initdb", "--auth=trust", "--username=airflow", "--encoding=UTF8", "--no-sync")
        options = (
            f"-F -p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200"
        )
        run("pg_ctl", "start", "--wait", "--log", str(Path(folder) / "server.log"), "--options", options)
        try:
            yield f"postgresql+psycopg2://airflow@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "stop", "--wait", "--mode=immediate")


class Door:
    """A TCP port that leads to another one while it is open; shut, there is nobody."""

    def __init__(self, target: int) -> None:
        self.port, self._target = free_port(), target
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.open()

    def open(self) -> None:
        self._wait_for(self._open())

    def shut(self) -> None:
        """Break every connection and take no new one."""
        self._wait_for(self._shut())

    def close(self) -> None:
        self.shut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait_for(self, doing: Any) -> None:
        asyncio.run_coroutine_threadsafe(doing, self._loop).result(timeout=10)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", self.port)

    async def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._connections:
            writer.transport.abort()
        await asyncio.sleep(0.1)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", self._target)
        writers = {writer, onward_writer}
        self._connections |= writers
        try:
            await asyncio.gather(_pump(reader, onward_writer), _pump(onward_reader, writer))
        finally:
            self._connections -= writers
            for one in writers:
                one.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()


class Store:
    """An S3 store: the server, a bucket in it, and the door by which all but the tests reach it."""

    def __init__(self, port: int) -> None:
        self.bucket = "scans"
        self.door = Door(port)
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.door.port}",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "a-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nowhere/config",
            "AWS_SHARED_CREDENTIALS_FILE": "/nowhere/credentials",
        }
        self.client = boto3.session.Session().client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id="someone",
            aws_secret_access_key="a-secret",
            region_name="us-east-1",
        )

    def url(self, prefix: str) -> str:
        return f"s3://{self.bucket}/{prefix}"

    def put(self, folder: Path, prefix: str) -> None:
        """Every file of a folder, as whoever brings scans puts it."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder).as_posix()}"
                self.client.upload_file(str(path), self.bucket, key)


@contextlib.contextmanager
def s3_store() -> Iterator[Store]:
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: _answers(port) or server.poll() is not None, 30, "the start of the S3 server")
        store = Store(port)
        store.client.create_bucket(Bucket=store.bucket)
        versions = {"Status": "Enabled"}
        store.client.put_bucket_versioning(Bucket=store.bucket, VersioningConfiguration=versions)
        yield store
        store.door.close()
        store.client.close()
    finally:
        server.kill()
        server.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
