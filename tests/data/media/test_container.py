"""Containers: which streams are taken, what is no container, and names that are no paths."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from tests.fixtures.media import WriteMedia, number_of
from tests.fixtures.messages import facts

from avsl.data.media.audio import iter_audio, read_audio
from avsl.data.media.video import iter_shots, read_frame
from avsl.errors import DataError


def _with_cover(source: Path, target: Path) -> Path:
    """The same mp4 with a cover picture, described before its tracks."""

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(content), kind) + content

    def boxes(content: bytes) -> list[bytes]:
        found = []
        while content:
            size = struct.unpack(">I", content[:4])[0]
            found.append(content[:size])
            content = content[size:]
        return found

    jpeg = av.CodecContext.create("mjpeg", "w")
    assert isinstance(jpeg, av.VideoCodecContext)
    jpeg.width, jpeg.height, jpeg.pix_fmt = 48, 48, "yuvj420p"
    frame = av.VideoFrame.from_ndarray(np.full((48, 48, 3), 250, np.uint8), format="rgb24").reformat(format="yuvj420p")
    cover = b"".join(bytes(packet) for packet in [*jpeg.encode(frame), *jpeg.encode(None)])
    handler = box(b"hdlr", struct.pack(">II4s12x", 0, 0, b"mdir") + b"\0")
    item = box(b"covr", box(b"data", struct.pack(">II", 13, 0) + cover))
    note = box(b"udta", box(b"meta", bytes(4) + handler + box(b"ilst", item)))
    whole = boxes(source.read_bytes())
    place = next(k for k, part in enumerate(whole) if part[4:8] == b"moov")
    first, *rest = [part for part in boxes(whole[place][8:]) if part[4:8] != b"udta"]
    whole[place] = box(b"moov", b"".join([first, note, *rest]))
    target.write_bytes(b"".join(whole))
    return target


def test_cover_art_is_no_video(video: Path, tmp_path: Path, write_media: WriteMedia) -> None:
    """Neither beside a video, where it may come first, nor alone with a sound."""
    path = _with_cover(video, tmp_path / "cover.mp4")
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 2
    assert number_of(read_frame(path, 1.0)) == 10
    assert len(list(iter_shots(path, []))) == 60
    blind = _with_cover(write_media(tmp_path / "song.m4a", picture=None), tmp_path / "cover.m4a")
    with pytest.raises(DataError, match=facts("cover.m4a video")):
        read_frame(blind, None)


def test_the_default_stream_is_taken(tmp_path: Path) -> None:
    """Where a container says which of its videos is to be shown, that is not always the first."""
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=1) for _ in range(2)]
        for level, stream in enumerate(streams):
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            stream.disposition = (av.stream.Disposition(0), av.stream.Disposition.default)[level]
        for level, stream in enumerate(streams):
            assert isinstance(stream, av.VideoStream)
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 200 * level, np.uint8), format="rgb24")
            for packet in [*stream.encode(frame), *stream.encode()]:
                container.mux(packet)
    assert read_frame(path, 0.0).mean() > 150


@pytest.mark.parametrize("name", ["12:30.mp4", "-v.mp4", "a:b.mkv", "100%d.mp4", "file:x.mp4"])
def test_names_are_no_addresses_and_no_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_media: WriteMedia, name: str
) -> None:
    """A file is found by any name, from its own folder too."""
    write_media(tmp_path / f"plain{Path(name).suffix}").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (Path(name), tmp_path / name):
        assert number_of(read_frame(path, 1.0)) == 10


@pytest.mark.parametrize(
    ("read", "lacks"),
    [
        (lambda path: read_audio(path, None, 1.0), "sound"),
        (lambda path: list(iter_audio(path, [0.5], 1.0, 16000, [])), "sound"),
        (lambda path: read_frame(path, 0.0), "picture"),
        (lambda path: list(iter_shots(path, [])), "picture"),
    ],
)
def test_missing_streams_are_named(
    tmp_path: Path, write_media: WriteMedia, read: Callable[[Path], object], lacks: str
) -> None:
    """A video without sound and a sound without video say what they lack."""
    half = write_media(tmp_path / "half.mp4", **{lacks: None})  # type: ignore[arg-type]  # keywords by name
    with pytest.raises(DataError, match=facts("half.mp4", "audio" if lacks == "sound" else "video")):
        read(half)
