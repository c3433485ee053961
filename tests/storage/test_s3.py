"""S3 in and out against a real server, and through a proxy on which things go wrong when a test asks for it."""

from __future__ import annotations

import contextlib
import hashlib
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import boto3
import pytest
from botocore.config import Config
from tests.fixtures.messages import facts, says

from avsl.storage import Report, StorageError, download, is_remote, local_root, upload

_ERRORS = {"InternalError": 500, "SlowDown": 503, "BadDigest": 400}


class Proxy:
    """Forwards requests to the server; ``trouble`` says what goes wrong with which.

    Attributes:
        trouble: given method, path and how often both came before, names what goes wrong: an S3 error ("InternalError",
            "SlowDown", "BadDigest"; the request does not reach the server), "cut" (half of the answer, or none
            where it is empty), "corrupt" (a byte of the answer differs); or None.
        rename: byte strings of answers and their headers that are replaced by others of the same length.
        seen: (method, path) of every request, the path with what it asks for.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream).netloc
        self.reset()

        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    proxy._answer(self)

            def __getattr__(self, name: str) -> Callable[[], None]:
                if name.startswith("do_"):
                    return self.answer
                raise AttributeError(name)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Nothing goes wrong any more, and nothing has been seen."""
        self.trouble: Callable[[str, str, int], str | None] = lambda method, path, before: None
        self.rename: Mapping[bytes, bytes] = {}
        self.seen: list[tuple[str, str]] = []
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        method, path = handler.command, unquote(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        with self._lock:
            self.seen.append((method, path))
            counted = (method, path, handler.headers.get("Range", ""))
            before = self._counts[counted]
            self._counts[counted] += 1
        wrong = self.trouble(method, path, before)
        if wrong in _ERRORS:
            code, status = wrong, _ERRORS[wrong]
            content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
            headers = [("Content-Type", "application/xml")]
            length = len(content)
        else:
            upstream = HTTPConnection(self._upstream)
            asked = dict(handler.headers)
            for old, new in self.rename.items():
                asked = {name: value.replace(new.decode(), old.decode()) for name, value in asked.items()}
            upstream.request(method, handler.path, body, asked)
            answer = upstream.getresponse()
            content, status, headers = answer.read(), answer.status, answer.getheaders()
            length = int(answer.headers.get("Content-Length", len(content)))
            upstream.close()
        if wrong == "cut" and not content:
            handler.close_connection = True
            return
        if wrong == "corrupt":
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        for old, new in self.rename.items():
            content = content.replace(old, new)
            headers = [(name, value.replace(old.decode(), new.decode())) for name, value in headers]
        handler.send_response_only(status)
        for name, value in headers:
            if not re.fullmatch("connection|content-length|transfer-encoding", name, re.IGNORECASE):
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        if wrong == "cut":
            handler.close_connection = True
            content = content[: len(content) // 2]
        handler.wfile.write(content)


@pytest.fixture
def proxy(s3_server: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The way to the bucket's server leads through it, but for clients made before."""
    made = Proxy(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    yield made
    made.close()


def _random(size: int, seed: int) -> bytes:
    return hashlib.shake_128(seed.to_bytes(4, "big")).digest(size)


def _tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def _held(folder: Path) -> dict[str, bytes]:
    """Everything a folder holds, hidden and temporary files too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _many(n: int) -> dict[str, bytes]:
    return {f"{k % 3}/{k:03d}.bin": _random(100 + k, k) for k in range(n)}


_BIG = _random(9 << 20, 0)  # two parts of at most 8 MiB
_MIXED = {"big.bin": _BIG, "a/b/c.txt": b"x", "a/empty": b"", "ä ö+%&?#.txt": b"name", ".hidden": b"h"}


def _put(bucket: str, key: str, body: bytes, **arguments: Any) -> None:
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=body, **arguments)


def _transfers(proxy: Proxy) -> list[str]:
    """The paths of requests that carried a file's bytes."""
    return [path for method, path in proxy.seen if method in ("GET", "PUT") and "list-type" not in path]


# --- What arrives ---------------------------------------------------------------------------------------------


def test_what_was_stored_comes_back_and_nothing_travels_twice(bucket: str, proxy: Proxy, tmp_path: Path) -> None:
    """Deep, empty, hidden, oddly named and large files; the second call in either direction moves no file."""
    source = _tree(tmp_path / "source", _MIXED)
    size = sum(map(len, _MIXED.values()))
    uri = f"s3://{bucket}/some/where"
    assert upload(source, uri) == Report(len(_MIXED), 0, size)
    assert download(f"{uri}/", tmp_path / "copy") == Report(len(_MIXED), 0, size)
    assert _held(tmp_path / "copy") == _MIXED
    proxy.reset()
    assert upload(source, uri) == download(uri, tmp_path / "copy") == Report(0, len(_MIXED), 0)
    assert not _transfers(proxy)
    # A prefix is a folder's, and a bucket's root is one too.
    _put(bucket, "some/wherever", b"not below the prefix")
    _put(bucket, "some/where/console/", b"")
    assert download(uri, tmp_path / "copy").kept == len(_MIXED)
    assert download(f"s3://{bucket}", tmp_path / "all").transferred == len(_MIXED) + 1


def test_large_files_travel_in_parts(bucket: str, proxy: Proxy, tmp_path: Path) -> None:
    """9 MiB take two requests in each direction, not one."""
    upload(_tree(tmp_path / "source", {"big": _BIG}), f"s3://{bucket}")
    assert len([path for path in _transfers(proxy) if "partNumber" in path]) == 2
    proxy.reset()
    download(f"s3://{bucket}", tmp_path / "copy")
    assert len(_transfers(proxy)) == 2


def test_files_that_differ_are_replaced(bucket: str, tmp_path: Path) -> None:
    """One byte in a small or a large file, or a missing end, is seen; what is equal stays as it is."""
    uri = f"s3://{bucket}/set"
    source = _tree(tmp_path / "source", _MIXED)
    upload(source, uri)
    copy = tmp_path / "copy"
    download(uri, copy)
    (copy / "big.bin").write_bytes(_BIG[:-1] + bytes([_BIG[-1] ^ 1]))
    (copy / "a/b/c.txt").write_bytes(b"y")
    (copy / "a/empty").write_bytes(b"more")
    (copy / "mine").write_bytes(b"mine")
    untouched = (copy / ".hidden").stat()
    assert download(uri, copy) == Report(3, 2, len(_BIG) + 1)
    assert _held(copy) == _MIXED | {"mine": b"mine"}
    assert (copy / ".hidden").stat().st_mtime_ns == untouched.st_mtime_ns
    (source / "big.bin").write_bytes(_BIG[::-1])
    (source / ".late.123.part").write_bytes(b"left by a killed writer")
    assert upload(source, uri) == Report(1, 4, len(_BIG))
    download(uri, copy)
    assert _held(copy) == _MIXED | {"big.bin": _BIG[::-1], "mine": b"mine"}


@pytest.mark.parametrize("algorithm", ["SHA256", "SHA1", "CRC32", None])
@pytest.mark.parametrize("parts", [False, True])
def test_files_that_others_stored_are_checked_by_what_s3_has(
    algorithm: str | None, parts: bool, bucket: str, tmp_path: Path
) -> None:
    """Stored in one piece or in parts, with any of the checksums or the ETag alone: equal is kept, damage is not."""
    client = boto3.client("s3", config=Config(request_checksum_calculation="when_required"))
    content = _random(5000, 0)
    extra = {"ChecksumAlgorithm": algorithm} if algorithm else {}
    if parts:
        upload_id = client.create_multipart_upload(Bucket=bucket, Key="x", **extra)["UploadId"]
        sent = []
        for number, start in enumerate(range(0, len(content), 2000), 1):
            about = {"Bucket": bucket, "Key": "x", "UploadId": upload_id, "PartNumber": number}
            answer = client.upload_part(**about, Body=content[start : start + 2000], **extra)
            sent.append(
                {key: answer[key] for key in answer if key[:8] in ("ETag", "Checksum")} | {"PartNumber": number}
            )
        about = {"Bucket": bucket, "Key": "x", "UploadId": upload_id}
        client.complete_multipart_upload(**about, MultipartUpload={"Parts": sent})
    else:
        client.put_object(Bucket=bucket, Key="x", Body=content, **extra)
    uri = f"s3://{bucket}"
    assert download(uri, tmp_path) == Report(1, 0, len(content))
    assert download(uri, tmp_path).kept == 1
    (tmp_path / "x").write_bytes(b"?" + content[1:])
    assert download(uri, tmp_path).transferred == 1
    assert _held(tmp_path) == {"x": content}


def test_an_etag_that_is_no_md5_is_not_taken_for_one(
    bucket: str, proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As KMS encryption has it: a stored checksum decides; with none, the file is named and never taken as there."""
    known, unknown = _random(64, 1), _random(64, 2)
    proxy.rename = {
        hashlib.md5(body).hexdigest().encode(): b"0" * 31 + b"%d" % k for k, body in enumerate((known, unknown))
    }
    bare: Any = boto3.client("s3", config=Config(request_checksum_calculation="when_required"))
    for key, body, extra in (("known", known, {"ChecksumAlgorithm": "SHA256"}), ("unknown", unknown, {})):
        bare.put_object(Bucket=bucket, Key=key, Body=body, ServerSideEncryption="aws:kms", **extra)
    uri = f"s3://{bucket}"
    assert download(uri, tmp_path) == Report(2, 0, 128)
    assert says(caplog.text, "1 size")
    assert "(the first: unknown)" in caplog.text
    proxy.trouble = lambda method, path, before: "corrupt" if path.endswith("/known") and before < 2 else None
    (tmp_path / "known").unlink()
    assert download(uri, tmp_path) == Report(2, 0, 128)
    assert _held(tmp_path) == {"known": known, "unknown": unknown}
    # Where the encryption leaves the ETag a MD5, another one says that the bytes differ.
    bare.put_object(Bucket=bucket, Key="unknown", Body=unknown)
    with pytest.raises(StorageError, match=facts("'unknown' 3")):
        download(uri, tmp_path)


# --- What goes wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["InternalError", "SlowDown", "cut", "corrupt"])
def test_every_request_fails_once_and_nothing_is_lost(wrong: str, bucket: str, proxy: Proxy, tmp_path: Path) -> None:
    """Listings, small files and every part of a large one, stored and fetched."""
    files = _many(12) | {"big": _BIG}
    source = _tree(tmp_path / "source", files)
    first = "BadDigest" if wrong == "corrupt" else wrong

    def trouble(method: str, path: str, before: int) -> str | None:
        if before or (method != "PUT" and wrong == "corrupt" and ("list-type" in path or method != "GET")):
            return None
        if method == "PUT" and wrong == "corrupt" and "partNumber" in path:
            return None
        return first if method == "PUT" else wrong

    proxy.trouble = trouble
    assert upload(source, f"s3://{bucket}/p").transferred == len(files)
    assert download(f"s3://{bucket}/p", tmp_path / "copy").transferred == len(files)
    assert _held(tmp_path / "copy") == files
    assert len(_transfers(proxy)) >= 2 * 2 * 12


def test_many_small_files_arrive_in_spite_of_throttling(bucket: str, proxy: Proxy, tmp_path: Path) -> None:
    """Every fifth of 100 files is refused once, each way."""
    files = _many(100)
    proxy.trouble = lambda method, path, before: (
        "SlowDown" if not before and path.endswith(("0.bin", "5.bin")) else None
    )
    upload(_tree(tmp_path / "source", files), f"s3://{bucket}")
    download(f"s3://{bucket}", tmp_path / "copy")
    assert _held(tmp_path / "copy") == files
    assert len(_transfers(proxy)) == 2 * (100 + 20)


def test_an_interrupted_transfer_leaves_whole_files_and_goes_on(
    bucket: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection dies after 10 files, each way; the next call moves the others alone."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    files = _many(30) | {"zz.bin": _BIG}
    source = _tree(tmp_path / "source", files)
    uri = f"s3://{bucket}/p"
    transfers: list[Callable[[], Report]] = [lambda: upload(source, uri), lambda: download(uri, tmp_path / "copy")]
    for transfer in transfers:
        proxy.reset()

        def dead(method: str, path: str, before: int) -> str | None:
            return "cut" if len(proxy.seen) > 11 else None

        proxy.trouble = dead
        with pytest.raises(StorageError, match=re.escape(uri)):
            transfer()
        if (tmp_path / "copy").exists():
            arrived = _held(tmp_path / "copy")
            assert 0 < len(arrived) < len(files)
            assert arrived.items() <= files.items()
        proxy.reset()
        report = transfer()
        assert 0 < report.kept < len(files)
        assert report.transferred + report.kept == len(files)
    assert _held(tmp_path / "copy") == files


def test_a_killed_transfer_leaves_whole_files_and_goes_on(bucket: str, proxy: Proxy, tmp_path: Path) -> None:
    """After kill -9 in the middle of a large file; a mirror then has no leftover."""
    files = _many(20) | {"zz.bin": _BIG}
    upload(_tree(tmp_path / "source", files), f"s3://{bucket}")
    reached, go_on = threading.Event(), threading.Event()

    def stalled(method: str, path: str, before: int) -> str | None:
        if method == "GET" and path.endswith("zz.bin"):
            reached.set()
            go_on.wait()
        return None

    proxy.trouble = stalled
    script = f"from avsl.storage import local_root, s3; local_root('s3://{bucket}', s3.Path('{tmp_path}/cache'))"
    killed = subprocess.Popen([sys.executable, "-c", script])
    assert reached.wait(60)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    go_on.set()
    left = [held for path in (tmp_path / "cache").iterdir() if path.is_dir() for held in [_held(path)]]
    assert [name for held in left for name in held if name.endswith(".part")]
    assert {
        name: body for held in left for name, body in held.items() if not name.endswith(".part")
    }.items() <= files.items()
    proxy.reset()
    assert _held(local_root(f"s3://{bucket}", tmp_path / "cache")) == files


def test_lasting_damage_is_an_error_and_never_takes_a_files_place(bucket: str, proxy: Proxy, tmp_path: Path) -> None:
    """The old file stays where a new one keeps arriving damaged; a file S3 keeps refusing is named."""
    uri = f"s3://{bucket}"
    _put(bucket, "x", b"new content")
    copy = _tree(tmp_path / "copy", {"x": b"old"})
    proxy.trouble = lambda method, path, before: "corrupt" if method == "GET" and path.endswith("/x") else None
    with pytest.raises(StorageError, match=facts(f"{uri} 'x' 3 checksum")):
        download(uri, copy)
    assert _held(copy) == {"x": b"old"}
    proxy.trouble = lambda method, path, before: "BadDigest" if method == "PUT" else None
    with pytest.raises(StorageError, match=facts(f"{uri} 'x' 3")):
        upload(copy, uri)
    assert boto3.client("s3").get_object(Bucket=bucket, Key="x")["Body"].read() == b"new content"


@pytest.mark.parametrize("content", [b"small", _BIG])
def test_an_object_that_changes_meanwhile_is_an_error(
    content: bytes, bucket: str, s3_server: str, proxy: Proxy, tmp_path: Path
) -> None:
    """Replaced after it was listed by something of the same size, or deleted: never half of each, never silent."""
    _put(bucket, "x", content)
    direct = boto3.client("s3", endpoint_url=s3_server)

    def replaced(method: str, path: str, before: int) -> str | None:
        if method == "GET" and path.endswith("/x"):
            direct.put_object(Bucket=bucket, Key="x", Body=content[::-1])
        return None

    def deleted(method: str, path: str, before: int) -> str | None:
        if method == "GET" and path.endswith("/x"):
            direct.delete_object(Bucket=bucket, Key="x")
        return None

    for trouble in (replaced, deleted):
        proxy.reset()
        proxy.trouble = trouble
        with pytest.raises(StorageError, match=facts(f"s3://{bucket} 'x'")):
            download(f"s3://{bucket}", tmp_path / "copy")
        assert not _held(tmp_path / "copy")


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/x", "a//x", "./x", "a/.."])
def test_keys_that_would_leave_the_folder_are_refused(key: str, bucket: str, tmp_path: Path) -> None:
    """Before anything is written."""
    _put(bucket, "good", b"good")
    _put(bucket, key, b"evil")
    with pytest.raises(StorageError, match=facts(f"'{key}'")):
        download(f"s3://{bucket}", tmp_path / "deep" / "copy")
    assert not list(tmp_path.rglob("*x"))
    assert not list(tmp_path.rglob("good"))


def test_a_key_that_is_file_and_folder_is_refused(bucket: str, tmp_path: Path) -> None:
    """S3 has both, a folder cannot."""
    _put(bucket, "p/a", b"")
    _put(bucket, "p/a/b/c", b"")
    with pytest.raises(StorageError, match=facts("'p/a' 'a/b/c'")):
        download(f"s3://{bucket}/p", tmp_path)


@pytest.mark.parametrize("tag", [b"01234567-89ab-cdef-0123-456789ab", b"CAAQARokZDQxZDhjZDk4ZjAwYjIwNA=="])
def test_an_etag_of_no_md5s_form_tells_nothing(
    tag: bytes, bucket: str, proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As other servers than AWS's have it: the size is checked and the file named, or a stored checksum decides."""
    known, unknown = _random(64, 1), _random(64, 2)
    proxy.rename = {hashlib.md5(unknown).hexdigest().encode(): tag}
    bare: Any = boto3.client("s3", config=Config(request_checksum_calculation="when_required"))
    bare.put_object(Bucket=bucket, Key="unknown", Body=unknown)
    uri = f"s3://{bucket}"
    assert download(uri, tmp_path) == Report(1, 0, 64)
    assert says(caplog.text, "1 size")
    proxy.rename = {hashlib.md5(known).hexdigest().encode(): tag}
    bare.put_object(Bucket=bucket, Key="unknown", Body=known, ChecksumAlgorithm="SHA256")
    assert download(uri, tmp_path) == Report(1, 0, 64)
    assert download(uri, tmp_path) == Report(0, 1, 0)
    assert _held(tmp_path) == {"unknown": known}


# --- What cannot be done --------------------------------------------------------------------------------------


def _refused(uri: str, folder: Path) -> str:
    """What both directions say, which is the same; one sentence, and nothing is written."""
    with pytest.raises(StorageError) as fetching:
        download(uri, folder / "copy")
    with pytest.raises(StorageError) as storing:
        upload(_tree(folder / "source", {"x": b"x"}), uri)
    assert not (folder / "copy").exists()
    assert str(fetching.value) == str(storing.value)
    assert "\n" not in str(fetching.value)
    return str(fetching.value)


def test_without_credentials(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says which variables are missing; a profile that is not there is named."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert says(_refused(f"s3://{bucket}/p", tmp_path), f"s3://{bucket}/p AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "nobody" in _refused(f"s3://{bucket}/p", tmp_path)


def test_without_a_bucket(bucket: str, tmp_path: Path) -> None:
    """Names it."""
    assert says(_refused("s3://no-such-bucket/p", tmp_path), "s3://no-such-bucket/p 'no-such-bucket'")
    assert "invalid" in _refused("s3://no such bucket", tmp_path).lower()


def test_without_access(bucket: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without rights is told which operation is denied, an unknown one that the credentials are not accepted."""
    iam = boto3.client("iam")
    iam.create_user(UserName=bucket)
    key = iam.create_access_key(UserName=bucket)["AccessKey"]

    def authorize(after: str) -> None:
        kind = {"Content-Type": "text/plain"}
        with urlopen(Request(f"{s3_server}/moto-api/reset-auth", after.encode(), kind)) as answer:
            assert answer.status == 200

    authorize("0")
    try:
        said = _refused(f"s3://{bucket}", tmp_path)
        assert says(said, f"s3://{bucket} InvalidAccessKeyId")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        assert says(_refused(f"s3://{bucket}", tmp_path), f"s3://{bucket} ListObjectsV2")
    finally:
        authorize("inf")


def test_a_wrong_endpoint(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody there, somebody who is not S3, and no URL at all."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    uri = f"s3://{bucket}"

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>welcome</html>")

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert says(_refused(uri, tmp_path), uri, url)
        server.shutdown()
        thread.join()
    assert says(_refused(uri, tmp_path), uri, url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    assert "nonsense" in _refused(uri, tmp_path)


@pytest.mark.parametrize("uri", ["", "folder", "s3:/b/p", "s3://", "s3:///p", "http://b/p"])
def test_what_is_no_address(uri: str, tmp_path: Path) -> None:
    """Is said to be none."""
    assert says(_refused(uri, tmp_path), f"'{uri}' s3://bucket/prefix")


def test_nothing_to_transfer(bucket: str, tmp_path: Path) -> None:
    """An address or a folder with nothing in it is an error, not an empty success."""
    with pytest.raises(StorageError, match=facts(f"s3://{bucket}/p")):
        download(f"s3://{bucket}/p", tmp_path / "copy")
    with pytest.raises(StorageError, match=facts("none")):
        upload(tmp_path / "none", f"s3://{bucket}")
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(StorageError, match=facts("empty")):
        upload(tmp_path / "empty", f"s3://{bucket}")
    (tmp_path / "empty" / "link").symlink_to(tmp_path)
    with pytest.raises(StorageError, match=facts("link")):
        upload(tmp_path / "empty", f"s3://{bucket}")


# --- Data roots -----------------------------------------------------------------------------------------------


def test_a_data_root_here_stays_where_it_is(tmp_path: Path) -> None:
    """Without a copy or a cache."""
    assert not is_remote(str(tmp_path))
    assert local_root(str(tmp_path), tmp_path / "cache") == tmp_path
    assert not (tmp_path / "cache").exists()


def test_a_mirror_follows_its_address(bucket: str, tmp_path: Path) -> None:
    """What goes, changes, or turns from file to folder and back does so in the mirror; two addresses do not mix."""
    client, cache = boto3.client("s3"), tmp_path / "cache"
    uri = f"s3://{bucket}/p"
    assert is_remote(uri)
    for key, body in {"p/a": b"a", "p/b/c": b"c", "p/b/d": b"d", "other/x": b"x"}.items():
        _put(bucket, key, body)
    mirror = local_root(uri, cache)
    assert _held(mirror) == {"a": b"a", "b/c": b"c", "b/d": b"d"}
    assert mirror.is_relative_to(cache)
    for key in ("p/a", "p/b/c", "p/b/d"):
        client.delete_object(Bucket=bucket, Key=key)
    _put(bucket, "p/a/deep", b"now a folder")
    _put(bucket, "p/b", b"now a file")
    assert local_root(f"{uri}/", cache) == mirror
    assert _held(mirror) == {"a/deep": b"now a folder", "b": b"now a file"}
    assert _held(local_root(f"s3://{bucket}/other", cache)) == {"x": b"x"}
    assert _held(mirror) == {"a/deep": b"now a folder", "b": b"now a file"}
