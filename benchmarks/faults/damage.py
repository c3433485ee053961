"""Small valid inputs of every kind that a command reads, and the ways in which they get damaged."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from numpy.random import Generator
from PIL import Image
from safetensors.torch import load_file, save_file

from avsl.models import ExportedModel, Localizer, LocalizerConfig, LocalizerEnsemble, save_exported
from avsl.models.weights.published import PUBLISHED

RATE = 16000
ROWS = ("r0", "r1", "r2", "r3")
_SIDE = 48

Damage = Callable[[Path, Generator], None]
"""Damages the file of a path, or puts another in its place."""


# --- Valid inputs --------------------------------------------------------------------------------------------


def write_valid(root: Path) -> None:
    """A folder in the layout of each data set (``folder``, ``vggss``, ``flickr``), a video, a model, a checkpoint."""
    for k, name in enumerate(ROWS):
        # A row of a data set for each kind of sound, so that every kind gets damaged.
        _write_picture(root / "folder" / "frames" / f"{name}.{('jpg', 'png')[k % 2]}", k)
        _write_sound(root / "folder" / "audio" / f"{name}.{('wav', 'flac', 'ogg', 'mp3')[k]}", k)
        _write_picture(root / "flickr" / "frames" / f"{name}.{('png', 'jpg')[k % 2]}", k)
        _write_sound(root / "flickr" / "audio" / f"{name}.{('wav', 'flac')[k % 2]}", k)
        _write_xml(root / "flickr" / "Annotations" / f"{name}.xml")
        _write_video(root / "vggss" / f"{name}.{('mp4', 'mkv', 'avi', 'mov')[k]}", k)
    boxes = [f"{name},cat,0.1,0.2,0.6,0.7" for name in ROWS[:3]]
    (root / "folder" / "boxes.csv").write_text("\n".join(["file,class,x0,y0,x1,y1", *boxes]) + "\n")
    drawn = [{"file": name, "class": "cat", "bbox": [[0.1, 0.2, 0.6, 0.7]]} for name in ROWS[:3]]
    (root / "vggss" / "vggss.json").write_text(json.dumps(drawn))
    (root / "vggss" / "test.csv").write_text("r0\n")
    for file, rows in (("test.csv", ROWS[:1]), ("sup_train.txt", ROWS[1:3]), ("144k.txt", ROWS[3:])):
        (root / "flickr" / f"flickr_{file}").write_text("".join(f"{row}\n" for row in rows))
    for name in ("film.mp4", "film.mkv"):
        _write_video(root / "videos" / name, 1)
    write_model(root / "model")
    _write_checkpoint(root / "checkpoint" / "best.pth")


def _write_picture(path: Path, k: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(k).integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def _tone(k: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return (0.4 * np.sin(2 * np.pi * 200 * (k + 1) * np.arange(RATE) / RATE)).astype(np.float32)


def _write_sound(path: Path, k: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, _tone(k), RATE)


def _write_xml(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    box = "<bbox><id>1</id><xmin>20</xmin><ymin>30</ymin><xmax>200</xmax><ymax>220</ymax></bbox>"
    path.write_text(f"<annotation>{f'<object>{box}</object>' * 3}</annotation>")


def _write_video(path: Path, k: int, heard: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(k)
    with av.open(str(path), "w") as container:
        picture = container.add_stream(("libx264", "mpeg4")[k % 2], rate=10)
        picture.width, picture.height, picture.pix_fmt = 64, _SIDE, "yuv420p"
        track = container.add_stream("aac", rate=RATE)
        for _ in range(10):
            pixels = rng.integers(0, 256, (_SIDE, 64, 3), np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        sound = av.AudioFrame.from_ndarray(_tone(k)[None, :heard], format="fltp", layout="mono")
        sound.sample_rate = RATE
        container.mux(track.encode(sound))
        container.mux(picture.encode())
        container.mux(track.encode())


def write_model(folder: Path) -> None:
    """An exported localizer of random weights."""
    torch.manual_seed(0)
    network = {"backbone": "resnet10t", "backbone_args": {"channels": [8, 8, 8, 8], "stem_width": 8}}
    sound = network | {"front_end": {"hop_length": 320, "n_mels": 32}}
    config = LocalizerConfig.read({"dim": 8, "image": network | {"stages": [1]}, "audio": sound}, "model")
    description = ExportedModel(members=[config], image_size=32, sample_rate=RATE, duration_s=0.25, threshold=0.3)
    save_exported(folder, LocalizerEnsemble([Localizer(config)]), description)


def _write_checkpoint(path: Path) -> None:
    """A checkpoint as EZ-VSL's authors publish theirs, of random weights."""
    torch.manual_seed(0)
    published = PUBLISHED["ezvsl"]({}, False)
    weights = Localizer(published.config).state_dict()
    named = {published.names(k)[0]: v for k, v in weights.items() if k not in ("log_scale", "offset")}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": named, "epoch": 3}, path)


# --- Damages to any file -------------------------------------------------------------------------------------


def truncated(path: Path, rng: Generator) -> None:
    """Cut off somewhere."""
    content = path.read_bytes()
    path.write_bytes(content[: int(rng.integers(1, len(content)))])


def emptied(path: Path, rng: Generator) -> None:
    """No byte."""
    path.write_bytes(b"")


def flipped(path: Path, rng: Generator) -> None:
    """One to 256 bytes anywhere."""
    _flip(path, rng, path.stat().st_size)


def flipped_header(path: Path, rng: Generator) -> None:
    """One to 256 of the first bytes."""
    _flip(path, rng, 256)


def _flip(path: Path, rng: Generator, within: int) -> None:
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, min(within, len(content)), 4 ** int(rng.integers(0, 5))).tolist():
        content[place] ^= int(rng.integers(1, 256))
    path.write_bytes(content)


def blanked(path: Path, rng: Generator) -> None:
    """A block of zeros, as of a disk that failed."""
    content = bytearray(path.read_bytes())
    start = int(rng.integers(0, len(content)))
    length = min(int(rng.integers(1, 4097)), len(content) - start)
    content[start : start + length] = bytes(length)
    path.write_bytes(content)


def repeated(path: Path, rng: Generator) -> None:
    """The end twice."""
    content = path.read_bytes()
    path.write_bytes(content + content[int(rng.integers(0, len(content))) :])


def noise(path: Path, rng: Generator) -> None:
    """Random bytes."""
    path.write_bytes(rng.bytes(int(rng.integers(1, 20_000))))


def picture_inside(path: Path, rng: Generator) -> None:
    """A BMP under the name."""
    Image.fromarray(rng.integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)).save(path, "BMP")


def sound_inside(path: Path, rng: Generator) -> None:
    """A wav under the name."""
    soundfile.write(path, _tone(1), RATE, format="WAV")


def text_inside(path: Path, rng: Generator) -> None:
    """A web page under the name, as of a download that failed."""
    path.write_text("<!DOCTYPE html><html><head><title>429 Too Many Requests</title></head></html>\n")


def pickle_inside(path: Path, rng: Generator) -> None:
    """A pickle that runs a command when it is loaded."""
    path.write_bytes(pickle.dumps(_Command(str(path.parent / "ran"))))


class _Command:
    def __init__(self, made: str) -> None:
        self._made = made

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self._made,)


def unreadable(path: Path, rng: Generator) -> None:
    """Nobody may read it; commands are run by an ordinary user for that."""
    path.chmod(0)


def folder_inside(path: Path, rng: Generator) -> None:
    """A folder of that name."""
    path.unlink()
    path.mkdir()


def looping(path: Path, rng: Generator) -> None:
    """A link to itself."""
    path.unlink()
    path.symlink_to(path.name)


def piped(path: Path, rng: Generator) -> None:
    """A pipe that nobody writes to."""
    path.unlink()
    os.mkfifo(path)


GENERIC: tuple[Damage, ...] = (
    *(truncated, flipped, flipped_header, blanked, flipped, flipped_header, truncated, repeated, noise, emptied),
    *(picture_inside, sound_inside, text_inside, pickle_inside, unreadable, folder_inside, looping, piped),
)


# --- Damages to a kind of file -------------------------------------------------------------------------------


def one_pixel(path: Path, rng: Generator) -> None:
    """1 x 1."""
    Image.fromarray(np.full((1, 1, 3), 9, np.uint8)).save(path)


def thread(path: Path, rng: Generator) -> None:
    """1 x 60,000."""
    Image.fromarray(np.full((60_000, 1, 3), 9, np.uint8)).save(path)


def bomb(path: Path, rng: Generator) -> None:
    """30,000 x 30,000 in 110 kB, 2.7 GB when decoded."""
    _blank_png(path, 30_000)


def quiet_bomb(path: Path, rng: Generator) -> None:
    """13,000 x 13,000, of which Pillow only warns."""
    _blank_png(path, 13_000)


def claimed_size(path: Path, rng: Generator) -> None:
    """A header that says 30,000 x 30,000 over a small picture."""
    content = bytearray(path.read_bytes())
    if content.startswith(b"\x89PNG"):
        content[16:24] = struct.pack(">II", 30_000, 30_000)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    else:
        start = content.find(b"\xff\xc0") + 5
        content[start : start + 4] = struct.pack(">HH", 30_000, 30_000)
    path.write_bytes(content)


def _blank_png(path: Path, side: int) -> None:
    """White, a bit a pixel, whatever the name says."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(1)
    row = b"\0" + b"\xff" * -(-side // 8)
    packed = b"".join([packer.compress(row) for _ in range(side)] + [packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))


def rate_of(hz: int) -> Damage:
    """A wav header that says another rate."""

    def damage(path: Path, rng: Generator) -> None:
        _patch(path, 24, struct.pack("<I", hz))

    damage.__name__ = f"rate_{hz}"
    return damage


def channels_of(number: int) -> Damage:
    """A wav header that says another number of channels."""

    def damage(path: Path, rng: Generator) -> None:
        _patch(path, 22, struct.pack("<H", number))

    damage.__name__ = f"channels_{number}"
    return damage


def samples_of(value: float) -> Damage:
    """Sound with a second of samples of one value in it."""

    def damage(path: Path, rng: Generator) -> None:
        sound = np.concatenate([_tone(0), np.full(RATE, value, np.float32)])
        soundfile.write(path, sound, RATE, format="WAV", subtype="FLOAT")

    damage.__name__ = f"samples_{value}"
    return damage


def endless(path: Path, rng: Generator) -> None:
    """A wav header that says 4 GB."""
    _patch(path, 4, struct.pack("<I", 2**32 - 1))
    _patch(path, 40, struct.pack("<I", 2**32 - 1))


def _patch(path: Path, at: int, by: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(by)] = by
    path.write_bytes(content)


def box_field(kind: bytes, at: int, by: bytes) -> Damage:
    """Another value in an mp4's box, ``at`` bytes after its name."""

    def damage(path: Path, rng: Generator) -> None:
        content = path.read_bytes()
        start = content.find(kind)
        if start >= 0:
            _patch(path, start + 4 + at, by)

    damage.__name__ = f"mp4_{kind.decode()}_{at}_{by.hex()}"
    return damage


def short_sound(path: Path, rng: Generator) -> None:
    """A video whose sound ends after a tenth of it, as a microphone's does that was switched off."""
    path.unlink()
    _write_video(path, 0, RATE // 10)


PICTURES: tuple[Damage, ...] = (one_pixel, thread, bomb, quiet_bomb, claimed_size)
SOUNDS: tuple[Damage, ...] = (
    *(rate_of(hz) for hz in (0, 1, 44_099, 47_999, 10_000_000, 2**32 - 1)),
    *(channels_of(number) for number in (0, 1000, 65_535)),
    *(samples_of(value) for value in (np.nan, np.inf, 1e38, 3e4)),
    endless,
)
VIDEOS: tuple[Damage, ...] = (
    box_field(b"mp4v", 24, struct.pack(">HH", 30_000, 30_000)),
    box_field(b"avc1", 24, struct.pack(">HH", 30_000, 30_000)),
    box_field(b"mp4a", 24, struct.pack(">I", 0)),
    box_field(b"mp4a", 24, struct.pack(">I", 10_000_000)),
    box_field(b"mp4a", 16, struct.pack(">H", 65_535)),
    box_field(b"mvhd", 12, struct.pack(">I", 0)),
    box_field(b"mdhd", 12, struct.pack(">I", 0)),
    box_field(b"mdhd", 16, struct.pack(">I", 2**32 - 1)),
    box_field(b"stts", 4, struct.pack(">I", 2**31)),
    box_field(b"stts", 12, struct.pack(">I", 2**30)),
    short_sound,
)


def _written(name: str, content: bytes) -> Damage:
    def damage(path: Path, rng: Generator) -> None:
        path.write_bytes(content)

    damage.__name__ = name
    return damage


def _laughs(levels: int, times: int) -> bytes:
    entities = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * times}">' for k in range(1, levels))
    return f'<!DOCTYPE a [<!ENTITY l0 "lol">{entities}]><a><object>&l{levels - 1};</object></a>'.encode()


def _xml(box: str, head: str = "") -> bytes:
    return f"{head}<annotation>{f'<object><bbox>{box}</bbox></object>' * 3}</annotation>".encode()


_CORNERS = "<id>1</id><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
XML: tuple[Damage, ...] = (
    _written("billion_laughs", _laughs(10, 10)),
    _written("quadratic_blowup", _laughs(2, 200_000)),
    _written("external_entity", b'<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><a><object>&e;</object></a>'),
    _written("external_dtd", b'<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd"><a><object/></a>'),
    _written("unknown_encoding", _xml(_CORNERS.format(1, 2, 99, 99), '<?xml version="1.0" encoding="klingon"?>')),
    _written("wide_encoding", _xml(_CORNERS.format(1, 2, 99, 99), '<?xml version="1.0" encoding="utf-7"?>')),
    _written("deep", b"<a>" * 200_000),
    _written("not_a_number", _xml(_CORNERS.format("nan", "inf", "1e999", "-1e999"))),
    _written("five_corners", _xml(_CORNERS.format(1, 2, 3, 4) + "<z>5</z>")),
    _written("no_corner", _xml("")),
    _written("inside_out", _xml(_CORNERS.format(200, 200, 10, 10))),
)
JSON: tuple[Damage, ...] = (
    _written("deep", b"[" * 200_000),
    _written("deep_box", b'[{"file": "r0", "class": "c", "bbox": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]"),
    _written("nan", b'[{"file": "r0", "class": "c", "bbox": [[NaN, Infinity, 1e999, -1e999]]}]'),
    _written("huge_number", b'[{"file": "r0", "class": "c", "bbox": [[0, 0, 1' + b"0" * 10_000 + b", 1]]}]"),
    _written("surrogate", b'[{"file": "\\ud800", "class": "\\udfff", "bbox": [[0, 0, 1, 1]]}]'),
    _written("nul", b'[{"file": "r\\u0000", "class": "c", "bbox": [[0, 0, 1, 1]]}]'),
    _written("path_escape", b'[{"file": "../../../etc/passwd", "class": "c", "bbox": [[0, 0, 1, 1]]}]'),
    _written("twice", b'[{"file": "r0", "class": "c", "bbox": []}, {"file": "r0", "class": "c", "bbox": []}]'),
    _written("no_list", b'{"r0": [0, 0, 1, 1]}'),
    _written("null", b"null"),
    _written("utf16", '[{"file": "r0", "class": "c", "bbox": [[0, 0, 1, 1]]}]'.encode("utf-16")),
)
_HEADER = b"file,class,x0,y0,x1,y1\n"
CSV: tuple[Damage, ...] = (
    _written("endless_field", _HEADER + b"r0," + b"c" * 300_000 + b",0,0,1,1\n"),
    _written("open_quote", _HEADER + b'"r0,c,0,0,1,1\nr1,c,0,0,1,1\n'),
    _written("nan", _HEADER + b"r0,c,nan,inf,1e999,-1e999\n"),
    _written("nul", _HEADER + b"r0\0,c,0,0,1,1\n"),
    _written("path_escape", _HEADER + b"../../../etc/passwd,c,0,0,1,1\n/etc/passwd,c,0,0,1,1\n"),
    _written("newline_in_name", _HEADER + b'"r0\nr1",c,0,0,1,1\n'),
    _written("carriage_returns", _HEADER.replace(b"\n", b"\r") + b"r0,c,0,0,1,1\r"),
    _written("latin1", _HEADER + "r0,à,0,0,1,1\n".encode("latin-1")),
    _written("utf16", (_HEADER + b"r0,c,0,0,1,1\n").decode().encode("utf-16")),
)
LISTS: tuple[Damage, ...] = (
    _written("path_escape", b"../../../etc/passwd\n/etc/passwd\nr0\n"),
    _written("long_name", b"r" * 5000 + b"\nr0\n"),
    _written("long_path", b"a/" * 5000 + b"\nr0\n"),
    _written("nul", b"r\0\nr0\n"),
    _written("newline_in_name", b'"r0\nr1"\nr0\n'),
    _written("unicode", "r0\nrɹ\U0001f408\u2028x\n".encode()),
    _written("latin1", b"r0\n\xe0\n"),
    _written("endless_field", b"r0\n" + b"r" * 300_000 + b"\n"),
)


def not_a_number(path: Path, rng: Generator) -> None:
    """A weight that is NaN."""
    exported = path.suffix == ".safetensors"
    content = load_file(path) if exported else torch.load(path, weights_only=True)
    weights = content if exported else content["model"]
    next(tensor for tensor in weights.values() if tensor.is_floating_point()).view(-1)[0] = torch.nan
    if exported:
        save_file(content, path)
    else:
        torch.save(content, path)


def endless_header(path: Path, rng: Generator) -> None:
    """A safetensors header that says 4 EB."""
    _patch(path, 0, struct.pack("<Q", 2**62))


def renamed(name: bytes) -> Damage:
    """Another file name, the ending kept."""

    def damage(path: Path, rng: Generator) -> None:
        path.rename(Path(os.fsdecode(os.fsencode(path.parent) + b"/" + name + os.fsencode(path.suffix))))

    damage.__name__ = f"renamed_{name[:12]!r}"
    return damage


NAMES: tuple[Damage, ...] = tuple(
    renamed(name)
    for name in (
        *("ɹ\U0001f408 é".encode(), b"r\nr", b"r\rr\x1b[31m", b"[", b"[red]", b"-r", b"r,\"'", b"r\xff\xfe"),
        *(b"r" * 245, b"%s{0}$HOME", b"CON"),
    )
)


# --- The campaign's cases ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One damaged input and the command that is to cope with it.

    Attributes:
        number: seeds the damage.
        command: ``prepare``, ``check``, ``localize``, ``localize_folder`` or ``import``.
        data: the data set, or what else is copied for it.
        file: which of its files is damaged.
        damage: how.
    """

    number: int
    command: str
    data: str
    file: str
    damage: Damage

    @property
    def kind(self) -> str:
        """What kind of input is damaged."""
        if self.damage in NAMES:
            return "file names"
        suffix = Path(self.file).suffix
        kinds = {"pictures": (".jpg", ".png"), "sounds": (".wav", ".flac", ".ogg", ".mp3"), "models": (".safetensors",)}
        kinds |= {"videos": (".mp4", ".mkv", ".avi", ".mov"), "checkpoints": (".pth",)}
        if self.data == "model":
            return "models"
        return next((kind for kind, suffixes in kinds.items() if suffix in suffixes), "annotations and lists")


def cases(number: int) -> Iterator[Case]:
    """The campaign: each special damage once or twice, then general ones in turn on every file, ``number`` in all."""
    numbers = count()
    specials: list[tuple[str, str, str, tuple[Damage, ...]]] = [
        *((d, "folder", f"frames/{f}", PICTURES) for d in ("prepare", "check") for f in ("r0.jpg", "r1.png")),
        *((d, "folder", "audio/r0.wav", SOUNDS) for d in ("prepare", "check")),
        *((d, "vggss", f, VIDEOS) for d in ("prepare", "check") for f in ("r0.mp4",)),
        *((d, "flickr", "Annotations/r1.xml", XML) for d in ("prepare", "check")),
        *((d, "vggss", "vggss.json", JSON) for d in ("prepare", "check")),
        *((d, "folder", "boxes.csv", CSV) for d in ("prepare", "check")),
        *((d, "flickr", f"flickr_{f}", LISTS) for d in ("prepare",) for f in ("test.csv", "sup_train.txt", "144k.txt")),
        *((d, "folder", "frames/r3.png", NAMES) for d in ("prepare", "check")),
        ("prepare", "vggss", "r3.mov", NAMES),
        ("localize", "videos", "film.mp4", VIDEOS),
        ("localize_folder", "videos", "film.mp4", NAMES),
        ("localize", "model", "model.safetensors", (not_a_number, endless_header)),
        ("import", "checkpoint", "best.pth", (not_a_number,)),
    ]
    listed = [(command, data, file, damage) for command, data, file, damages in specials for damage in damages]
    yield from (Case(next(numbers), *case) for case in listed[:number])
    files = [
        *(("prepare", "folder", f"frames/r{k}.{('jpg', 'png')[k % 2]}") for k in (0, 1)),
        *(("prepare", "folder", f"audio/r{k}.{('wav', 'flac', 'ogg', 'mp3')[k]}") for k in range(4)),
        *(("prepare", "vggss", f"r{k}.{('mp4', 'mkv', 'avi', 'mov')[k]}") for k in range(4)),
        *(("localize", "videos", name) for name in ("film.mp4", "film.mkv")),
        *(("check", "flickr", f) for f in ("frames/r1.jpg", "audio/r0.wav")),
        *(("prepare", d, f) for d, f in (("flickr", "Annotations/r1.xml"), ("vggss", "vggss.json"))),
        *(("prepare", d, f) for d, f in (("folder", "boxes.csv"), ("flickr", "flickr_test.csv"))),
        *(("localize", "model", name) for name in ("model.json", "model.safetensors")),
        ("import", "checkpoint", "best.pth"),
    ]
    # As many files as a multiple of no damage's place: each file meets each damage in turn.
    for damage, (command, data, file) in zip(_turns(len(files)), cycle(files), strict=False):
        if (place := next(numbers)) >= number:
            return
        yield Case(place, command, data, file, damage)


def _turns(files: int) -> Iterator[Damage]:
    """For each round over the files another damage for each."""
    for k in count():
        yield from (GENERIC[(k + place) % len(GENERIC)] for place in range(files))
