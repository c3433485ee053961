"""Folders to and from S3: in parallel, checked by checksum, resumed; whole files or none.

An address is ``s3://bucket`` or ``s3://bucket/prefix``. Endpoint, region, profile, credentials and addressing style
are those of the usual AWS variables and files (``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_PROFILE``,
``AWS_ACCESS_KEY_ID`` …), and so is how often a request is tried (``AWS_MAX_ATTEMPTS``).

How a file is compared with an object of its size:

1. Where the ETag is the file's MD5, they are equal.
2. Else the first of SHA-256, SHA-1 and CRC-32 decides that S3 has stored with the object, over all of it or over the
   parts of a multipart upload.
3. Else the ETag decides, a MD5 of all of it or of its parts', unless the object is encrypted with a key of KMS or of
   the customer: S3 documents that its ETag is no MD5.
4. Else (encrypted so, with CRC-32C or CRC-64 alone, or on a server whose ETags do not look like a MD5) nothing does: a
   fetched file's size is checked and a warning names it, and a file that is there already is transferred again.

What is stored from here carries its SHA-256, which S3 checks on arrival.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore import exceptions as aws
from botocore.config import Config
from botocore.session import Session
from filelock import FileLock
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError

from avsl.console import progress_bar
from avsl.errors import AvslError
from avsl.files import PART, whole_file

log = logging.getLogger(__name__)

_SCHEME = "s3://"
# Number of simultaneous transfers, and of requests of all transfers together.
_AT_ONCE = 16
_TRANSFER = TransferConfig(
    multipart_threshold=8 << 20,
    multipart_chunksize=8 << 20,
    max_concurrency=_AT_ONCE,
    preferred_transfer_client="classic",
)
# Of one request, unless AWS_MAX_ATTEMPTS or the profile says; the waits between grow from up to 1 s to up to 8 s.
_REQUEST_ATTEMPTS = 5
# Of one file that arrives damaged.
_FILE_ATTEMPTS = 3
_BLOCK = 1 << 20
# An ETag that is one, with the number of parts where it is of a multipart upload's.
_MD5 = re.compile(r'"?([0-9a-f]{32})(?:-(\d+))?"?')

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Advance = Callable[[int], None]


class StorageError(AvslError):
    """A transfer that cannot be made; the message is one sentence naming the address."""


@dataclass(frozen=True)
class Report:
    """The result of a transfer.

    Attributes:
        transferred: files that were sent or fetched.
        kept: files that were there already, whole and equal.
        bytes: of the transferred files.
    """

    transferred: int
    kept: int
    bytes: int


def is_remote(root: str) -> bool:
    """Return whether a data root is an S3 address."""
    return root.startswith(_SCHEME)


def local_root(root: str, cache: Path) -> Path:
    """Return the folder of a data root: itself, or the updated mirror of an S3 address in ``cache``.

    The mirror holds what the address holds and nothing else, so that what is made from it does not depend on where
    the data lay. Processes that ask for the same mirror wait for each other.

    Raises:
        StorageError: as :func:`download`.
    """
    if not is_remote(root):
        return Path(root)
    bucket, prefix = _parse(root)
    mirror = cache / f"{bucket}-{hashlib.sha256(prefix.encode()).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{mirror.name}.lock"):
        download(root, mirror, prune=True)
    return mirror


def listing(uri: str) -> dict[str, str]:
    """Return the ETag of each file below an address, by its path with "/", sorted; no file is fetched.

    Raises:
        StorageError: as :func:`download`, as far as asking goes.
    """
    objects = _Place.at(uri).objects()
    if not objects:
        raise StorageError(f"{uri} holds no files")
    return {name: objects[name].etag.strip('"') for name in sorted(objects)}


def download(uri: str, folder: Path, *, prune: bool = False) -> Report:
    """Fetch everything below an address into ``folder``.

    A file that is there already, equal to its object, is kept. Any other takes its name once it is whole and checked,
    so an interrupted call leaves whole files and the next one goes on; an object that arrives damaged is fetched
    again, three times in all. Keys that end in "/" (the folders that consoles make) are passed over.

    Args:
        uri: ``s3://bucket/prefix``; the prefix is a folder's: ``s3://b/a`` has the key ``a/x`` and not ``ab``.
        folder: made where absent.
        prune: first delete whatever else is in ``folder``, what a killed call left included.

    Raises:
        StorageError: there are no credentials, no such bucket or no access; the endpoint cannot be reached; nothing
            is at the address; a key cannot be a file below ``folder``; an object changes meanwhile, or stays damaged.
    """
    place = _Place.at(uri)
    objects = place.objects()
    if not objects:
        raise StorageError(f"{uri} holds no files")
    place.check_names(objects)
    if prune and folder.is_dir():
        _prune(folder, objects)
    with progress_bar(f"{uri}: fetching", sum(item.size for item in objects.values()), in_bytes=True) as bar:

        def fetch(manager: Any, item: _Object) -> tuple[_Object, str]:
            path = folder / item.name
            with place.one_sentence(item.key):
                if path.is_file() and place.equal(item, path):
                    bar.advance(item.size)
                    return item, "kept"
                return item, "fetched" if place.fetch(manager, item, path, bar.advance) else "unchecked"

        done = place.for_all(fetch, objects.values())
    unchecked = sorted(item.name for item, how in done if how == "unchecked")
    if unchecked:
        log.warning(
            "%s: of %d files only the size could be checked, as S3 has no checksum of them that can be computed here "
            "(the first: %s)",
            uri,
            len(unchecked),
            unchecked[0],
        )
    sizes = [item.size for item, how in done if how != "kept"]
    return _told(uri, "fetched", Report(len(sizes), len(done) - len(sizes), sum(sizes)))


def upload(folder: Path, uri: str) -> Report:
    """Store every file of ``folder`` below an address.

    A file that S3 has already is kept; S3 takes an object whole or not at all, so an interrupted call is continued by
    the next. What else is at the address stays. Names like ``.*.part``, which a killed writer leaves, are passed over.

    Args:
        folder: with at least one file; links to files are followed.
        uri: ``s3://bucket/prefix``, as in :func:`download`.

    Raises:
        StorageError: ``folder`` is missing, empty or has a link to a folder; there are no credentials, no such bucket
            or no access; the endpoint cannot be reached; or a file keeps arriving damaged.
    """
    place = _Place.at(uri)
    files = _files(folder)
    stored = place.objects()
    with progress_bar(f"{uri}: storing", sum(path.stat().st_size for path in files.values()), in_bytes=True) as bar:

        def store(manager: Any, name: str) -> int | None:
            path = files[name]
            key = place.prefix + name
            with place.one_sentence(key):
                size = path.stat().st_size
                if name in stored and place.equal(stored[name], path):
                    bar.advance(size)
                    return None
                place.store(manager, path, key, bar.advance)
                return size

        done = place.for_all(store, files)
    sizes = [size for size in done if size is not None]
    return _told(uri, "stored", Report(len(sizes), len(done) - len(sizes), sum(sizes)))


@dataclass(frozen=True)
class _Object:
    """An object: its name below the prefix, its key, its size in bytes and its ETag, in quotes."""

    name: str
    key: str
    size: int
    etag: str


@dataclass(frozen=True)
class _Place:
    """An address and its client; the prefix is empty or ends in "/"."""

    uri: str
    bucket: str
    prefix: str
    client: Any

    @classmethod
    def at(cls, uri: str) -> _Place:
        """Return the place of an address, with the environment's AWS settings."""
        bucket, prefix = _parse(uri)
        try:
            session = Session()
            attempts = session.get_config_variable("max_attempts") or _REQUEST_ATTEMPTS
            retries = {"mode": "standard", "total_max_attempts": attempts}
            settings = Config(retries=retries, max_pool_connections=2 * _AT_ONCE)
            client = boto3.Session(botocore_session=session).client("s3", config=settings)
        except (aws.BotoCoreError, ValueError) as error:  # an endpoint that is no URL is a ValueError
            raise StorageError(f"{uri}: the AWS settings cannot be used: {error}") from error
        return cls(uri, bucket, prefix, client)

    def objects(self) -> dict[str, _Object]:
        """Return the objects below the prefix, by name."""
        found = {}
        with self.one_sentence():
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix):
                if "Name" not in page:  # a web page, of a portal or a wrong port, parses as an empty listing
                    raise StorageError(f"{self.uri}: {self.client.meta.endpoint_url} does not answer like S3")
                for entry in page.get("Contents", []):
                    name = entry["Key"].removeprefix(self.prefix)
                    if name and not name.endswith("/"):
                        found[name] = _Object(name, entry["Key"], entry["Size"], entry["ETag"])
        return found

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse keys that cannot all be files below one folder."""
        names = set(names)
        for name in names:
            if "\0" in name or {"", ".", ".."} & set(name.split("/")):
                raise StorageError(f"{self.uri}: the key '{self.prefix}{name}' is no path below a folder")
        for name in names:
            for parent in PurePosixPath(name).parents:
                if str(parent) in names:
                    key = f"{self.prefix}{parent}"
                    raise StorageError(f"{self.uri}: the key '{key}' would be both a file and the folder of '{name}'")

    def equal(self, item: _Object, path: Path) -> bool | None:
        """Return whether a file holds an object's bytes, by the module's rules; None if it cannot be checked."""
        if path.stat().st_size != item.size:
            return False
        found = _MD5.fullmatch(item.etag)
        tag, parts = found.groups() if found else (None, None)
        if tag and not parts and _digest(path, hashlib.md5, None).hex() == tag:
            return True
        about = {"Bucket": self.bucket, "Key": item.key}
        head = self.client.head_object(**about, IfMatch=item.etag, ChecksumMode="ENABLED")
        part_size = None
        if parts:
            first = self.client.head_object(**about, PartNumber=1)["ContentLength"]
            # Parts of unequal sizes, which no usual tool makes, would have to be asked for one by one.
            part_size = first if first and -(-item.size // first) == int(parts) else None
        for name, algorithm in _ALGORITHMS.items():
            if name in head:
                value, of_parts, _ = head[name].partition("-")
                whole = not (parts or of_parts) or head.get("ChecksumType") == "FULL_OBJECT"
                if whole or part_size:
                    return _digest(path, algorithm, None if whole else part_size) == base64.b64decode(value)
        encrypted = head.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in head
        if tag is None or encrypted:
            return None
        if not parts:
            return False  # not the MD5
        return _digest(path, hashlib.md5, part_size).hex() == tag if part_size else None

    def fetch(self, manager: Any, item: _Object, path: Path, advance: _Advance) -> bool:
        """Fetch an object; returns whether it could be checked."""
        for _ in range(_FILE_ATTEMPTS):
            arrived = _Pinned(item, advance)
            try:
                with whole_file(path) as part:
                    with part.open("wb") as stream:
                        manager.download(self.bucket, item.key, stream, subscribers=[arrived]).result()
                    equal = self.equal(item, part)
                    if equal is False:
                        raise _DamagedError
                    return equal is not None
            except (_DamagedError, aws.FlexibleChecksumError):
                advance(-arrived.bytes)
        raise self._damaged(item.key)

    def store(self, manager: Any, path: Path, key: str, advance: _Advance) -> None:
        """Store a file with its SHA-256, which S3 verifies."""
        for _ in range(_FILE_ATTEMPTS):
            sent = _Counted(advance)
            arguments = {"ChecksumAlgorithm": "SHA256"}
            try:
                manager.upload(str(path), self.bucket, key, arguments, [sent]).result()
                return
            except aws.ClientError as error:
                if error.response["Error"]["Code"] not in ("BadDigest", "XAmzContentSHA256Mismatch"):
                    raise
                advance(-sent.bytes)
        raise self._damaged(key)

    def for_all(self, work: Callable[[Any, _Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """Call ``work`` with a transfer manager and each item in parallel; the first failure ends all."""
        with ThreadPoolExecutor(_AT_ONCE) as pool, create_transfer_manager(self.client, _TRANSFER) as manager:
            jobs = [pool.submit(work, manager, item) for item in items]
            try:
                return [job.result() for job in as_completed(jobs)]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    @contextmanager
    def one_sentence(self, key: str | None = None) -> Iterator[None]:
        """Turn an error of boto3, on the object ``key`` if it is given, into a StorageError."""
        try:
            yield
        except (aws.BotoCoreError, aws.ClientError, RetriesExceededError, S3DownloadFailedError) as error:
            where = self.uri if key is None else f"{self.uri}: '{key}'"
            raise StorageError(f"{where}: {' '.join(self._reason(error, key).split())}") from error

    def _reason(self, error: Exception, key: str | None) -> str:
        changed = "changed while it was being read: start again"
        if isinstance(error, S3DownloadFailedError):  # a part's ETag is another
            return changed
        if isinstance(error, RetriesExceededError):
            return f"the connection keeps breaking off: {error.last_exception}"
        if isinstance(error, aws.NoCredentialsError | aws.PartialCredentialsError):
            return "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        if isinstance(error, aws.ConnectionError | aws.HTTPClientError):
            return f"the endpoint {self.client.meta.endpoint_url} cannot be reached ({error})"
        if not isinstance(error, aws.ClientError):
            return str(error)
        code, message = (error.response["Error"].get(field, "") for field in ("Code", "Message"))
        if code == "NoSuchBucket":
            return f"there is no bucket '{self.bucket}'"
        if code in ("AccessDenied", "403"):
            return f"access denied to {error.operation_name}"
        if code in ("ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"):
            return f"the AWS credentials are not accepted ({code}: {message})"
        if code in ("301", "AuthorizationHeaderMalformed", "PermanentRedirect"):
            return f"the bucket is in another region than AWS_REGION says ({code}: {message})"
        if key is not None and code in ("404", "412", "NoSuchKey", "PreconditionFailed"):
            return changed
        return f"{error.operation_name} failed with {code}: {message}"

    def _damaged(self, key: str) -> StorageError:
        return StorageError(f"{self.uri}: '{key}' arrived damaged {_FILE_ATTEMPTS} times, by its checksum")


class _DamagedError(Exception):
    """The received bytes differ from those that were sent."""


class _Counted:
    """Reports a transfer's progress in bytes, as an s3transfer subscriber; a repeated request counts back."""

    def __init__(self, advance: _Advance) -> None:
        self._advance = advance
        self.bytes = 0

    def on_progress(self, future: Any, bytes_transferred: int, **_: Any) -> None:
        self.bytes += bytes_transferred
        self._advance(bytes_transferred)


class _Pinned(_Counted):
    """A download of exactly the listed object, without another request for its properties."""

    def __init__(self, item: _Object, advance: _Advance) -> None:
        super().__init__(advance)
        self._item = item

    def on_queued(self, future: Any, **_: Any) -> None:
        future.meta.provide_transfer_size(self._item.size)
        future.meta.provide_object_etag(self._item.etag)


class _CRC32:
    """zlib's CRC-32 with the interface of hashlib."""

    def __init__(self, data: bytes = b"") -> None:
        self._value = zlib.crc32(data)

    def update(self, data: bytes) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


# Keys are fields of S3's answer.
_ALGORITHMS: dict[str, Callable[..., Any]] = {
    "ChecksumSHA256": hashlib.sha256,
    "ChecksumSHA1": hashlib.sha1,
    "ChecksumCRC32": _CRC32,
}


def _digest(path: Path, algorithm: Callable[..., Any], part_size: int | None) -> bytes:
    """Return the digest of a file, or, for a multipart upload, the digest of its parts' digests."""
    parts = []
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        for start in range(0, max(size, 1), part_size or max(size, 1)):
            running, left = algorithm(), min(part_size or size, size - start)
            while left and (block := stream.read(min(_BLOCK, left))):
                running.update(block)
                left -= len(block)
            parts.append(running.digest())
    return bytes(algorithm(b"".join(parts)).digest() if part_size else parts[0])


def _parse(uri: str) -> tuple[str, str]:
    """Bucket and prefix of an address; the prefix is empty or ends in "/"."""
    bucket, _, rest = uri.removeprefix(_SCHEME).partition("/")
    if not is_remote(uri) or not bucket:
        raise StorageError(f"'{uri}' is no S3 address: s3://bucket or s3://bucket/prefix")
    rest = rest.strip("/")
    return bucket, f"{rest}/" if rest else ""


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder, by their relative path with "/"."""
    if not folder.is_dir():
        raise StorageError(f"{folder}: no such folder")
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and path.is_dir():
            raise StorageError(f"{path} is a link to a folder, which is not stored: give the folder itself")
        if path.is_file() and not (path.name.startswith(".") and path.name.endswith(PART)):
            files[path.relative_to(folder).as_posix()] = path
    if not files:
        raise StorageError(f"{folder} holds no files")
    return files


def _prune(folder: Path, names: Iterable[str]) -> None:
    """Delete all files but those of these names, and empty folders."""
    wanted = set(names)
    for path in sorted(folder.rglob("*"), reverse=True):  # what a folder holds before the folder
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in wanted:
            path.unlink()


def _told(uri: str, verb: str, report: Report) -> Report:
    log.info(
        "%s: %d files %s (%.1f MB), %d there already", uri, report.transferred, verb, report.bytes / 1e6, report.kept
    )
    return report
