"""Listing a prefix and fetching its objects whole, over a network that breaks.

boto3 repeats requests that fail, but not a body that breaks off once it has begun to arrive, and
it does not compare a body with its ETag; both are done here.
"""

import hashlib
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pipeline.atomic import atomic_path
from pipeline.errors import DataError
from pipeline.sources.keys import Prefix, S3Object
from pipeline.sources.refusals import explain

CHUNK = 1 << 20
"""Bytes read at a time."""
LONGEST_WAIT = 20.0
"""Seconds between two attempts, at most."""
REQUEST_ATTEMPTS = 3
"""Of boto3, for a request without an answer; a body that breaks off is for this module."""
CONNECT_TIMEOUT, READ_TIMEOUT = 10, 60
"""Seconds."""
MD5 = re.compile(r"[0-9a-f]{32}")
AGAIN = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling"}


class ObjectChanged(Exception):
    """The object is no longer the one that was listed."""


class Broken(Exception):
    """A transfer that did not end well; the next may."""


class Bucket:
    """A prefix of a bucket, to be closed after use; threads may share it.

    Args:
        prefix: what is read.
        threads: how many connections are kept.
        attempts: how often a transfer is tried.
        wait: seconds before the second attempt; doubled from one to the next, and drawn below that.

    Raises:
        MissingError: the settings of AWS cannot be used.
    """

    def __init__(self, prefix: Prefix, threads: int, attempts: int, wait: float) -> None:
        self.prefix = prefix
        self._attempts, self._wait = attempts, wait
        self._random = random.Random()
        self._stopped = threading.Event()
        self._client = _client(prefix, threads)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def stop(self) -> None:
        """Make transfers that are under way, in whatever thread, end soon and without a file."""
        self._stopped.set()

    def objects(self) -> list[S3Object]:
        """Every object as it now stands; names are relative to the prefix.

        Raises:
            HounsfieldError: the prefix cannot be listed.
        """
        for attempt in range(1, self._attempts + 1):
            try:
                with self._answers():
                    return self._list()
            except Broken as broken:
                reason = str(broken)
                self._pause(attempt)
        raise DataError(f"{self.prefix.url} cannot be listed ({reason})", "run again later")

    def fetch(self, wanted: S3Object, target: Path, arrived: Callable[[int], object]) -> S3Object:
        """Write an object to `target`, whole or not at all, and say which version it was.

        Args:
            wanted: as it was listed.
            target: the file.
            arrived: told the bytes that came; a negative number, where they have to come again.

        Raises:
            ObjectChanged: the bucket now holds another one, or none.
            DataError: it did not arrive whole.
            OSError: the file cannot be written.
        """
        for attempt in range(1, self._attempts + 1):
            try:
                with atomic_path(target) as partial:
                    return self._transfer(wanted, partial, arrived)
            except Broken as broken:
                reason = str(broken)
                self._pause(attempt)
        raise DataError(
            f"{wanted.name} did not arrive whole in {self._attempts} attempts ({reason})", "run again later"
        )

    def _list(self) -> list[S3Object]:
        where = {"Bucket": self.prefix.bucket, "Prefix": self.prefix.folder}
        found = self._latest_versions(where)
        if found is None:
            pages = self._client.get_paginator("list_objects_v2").paginate(**where)
            found = [entry for page in pages for entry in page.get("Contents", [])]
        start = len(self.prefix.folder)
        return [
            S3Object(entry["Key"][start:], entry["ETag"].strip('"'), entry["Size"], entry.get("VersionId"))
            for entry in found
        ]

    def _latest_versions(self, where: dict[str, str]) -> list[dict[str, Any]] | None:
        """The listing of a bucket that keeps versions; None, where it keeps none or does not tell."""
        from botocore.exceptions import ClientError

        try:
            if "Status" not in self._client.get_bucket_versioning(Bucket=self.prefix.bucket):
                return None
            pages = self._client.get_paginator("list_object_versions").paginate(**where)
            return [entry for page in pages for entry in page.get("Versions", []) if entry["IsLatest"]]
        except ClientError as error:
            status, code = _said(error)
            if status >= 500 and code != "NotImplemented":
                raise
            # Reading scans needs no right to see their history: the plain listing has ETag and size.
            return None

    def _transfer(self, wanted: S3Object, partial: Path, arrived: Callable[[int], object]) -> S3Object:
        with self._answers(wanted.name):
            response = self._client.get_object(
                Bucket=self.prefix.bucket,
                Key=self.prefix.folder + wanted.name,
                IfMatch=f'"{wanted.etag}"',
            )
        digest = hashlib.md5(usedforsecurity=False)
        size = 0
        with open(partial, "wb") as file, closing(response["Body"]) as body:
            try:
                # Not every server that speaks S3 heeds If-Match.
                if response["ETag"].strip('"') != wanted.etag:
                    raise ObjectChanged(wanted.name)
                for piece in self._pieces(wanted.name, body):
                    file.write(piece)
                    digest.update(piece)
                    size += len(piece)
                    arrived(len(piece))
                _check(wanted, response, size, digest.hexdigest())
            except BaseException:
                arrived(-size)
                raise
        return S3Object(wanted.name, wanted.etag, wanted.size, response.get("VersionId"))

    def _pieces(self, name: str, body: Any) -> Iterator[bytes]:
        while True:
            if self._stopped.is_set():
                raise DataError("the transfer was stopped", "run again")
            with self._answers(name):
                piece: bytes = body.read(CHUNK)
            if not piece:
                return
            yield piece

    @contextmanager
    def _answers(self, name: str = "") -> Iterator[None]:
        """Tell what may go well the next time from what will not; `name` of an object, or '': a listing."""
        from botocore import exceptions
        from botocore.parsers import ResponseParserError
        from urllib3.exceptions import HTTPError

        broken = (
            exceptions.HTTPClientError,
            exceptions.ConnectionError,
            exceptions.IncompleteReadError,
            exceptions.FlexibleChecksumError,
            ResponseParserError,
            HTTPError,
            OSError,
        )
        try:
            yield
        except exceptions.ClientError as error:
            status, code = _said(error)
            if status >= 500 or status == 429 or code in AGAIN:
                raise Broken(f"the server answered {status} {code}") from None
            if name and status in (404, 412):
                raise ObjectChanged from None
            raise explain(error, self.prefix, name) from None
        except broken as error:
            # The first to be asked; where there is no server at all, waiting will not bring one.
            if not name and isinstance(error, exceptions.ConnectionError):
                raise explain(error, self.prefix, endpoint=self._client.meta.endpoint_url) from None
            raise Broken(" ".join(str(error).split()) or type(error).__name__) from None
        except exceptions.BotoCoreError as error:
            raise explain(error, self.prefix) from None

    def _pause(self, attempt: int) -> None:
        """Wait before the next attempt, so that many that failed at once do not come back at once."""
        if attempt < self._attempts:
            longest = min(LONGEST_WAIT, self._wait * 2 ** (attempt - 1))
            self._stopped.wait(self._random.uniform(0, longest))


def etag_as_md5(etag: str) -> str:
    """The MD5 that an ETag looks like; '' for that of a multipart upload."""
    return etag if MD5.fullmatch(etag) else ""


def _client(prefix: Prefix, threads: int) -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        retries={"mode": "standard", "total_max_attempts": REQUEST_ATTEMPTS},
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        max_pool_connections=threads,
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        raise explain(error, prefix) from None


def _check(wanted: S3Object, response: dict[str, Any], size: int, md5: str) -> None:
    if size != wanted.size:
        raise Broken(f"{size} of {wanted.size} bytes came")
    # Encrypted with a key of KMS or of the customer, it has an ETag that looks like an MD5 and is none.
    by_kms = str(response.get("ServerSideEncryption", "")).startswith("aws:kms")
    expected = "" if by_kms or "SSECustomerAlgorithm" in response else etag_as_md5(wanted.etag)
    if expected and md5 != expected:
        raise Broken(f"the MD5 of what came is {md5}, not {expected}")


def _said(error: Any) -> tuple[int, str]:
    """Status and code of an answer."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return int(status), error.response.get("Error", {}).get("Code", "")
