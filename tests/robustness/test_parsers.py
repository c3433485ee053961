"""Real annotation files, mutated: each is read, or refused in the one way that a command tells as a sentence."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fixtures.messages import facts, says
from tests.fixtures.reference import find_shared

from avsl.data.annotation_files import read_annotations, read_list, read_pixel_boxes, read_table
from avsl.data.datasets import on_disk
from avsl.data.datasets.flickr import FlickrConfig, read_boxes
from avsl.data.datasets.flickr import read_index as read_flickr
from avsl.data.listing import Media, add_silent
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import Split
from avsl.errors import DataError
from avsl.models import read_description
from avsl.schema import ConfigError

_CORNERS = "<id>1</id><xmin>20</xmin><ymin>30.5</ymin><xmax>200</xmax><ymax>220</ymax>"
_XML = f'<?xml version="1.0"?><annotation>{f"<object><bbox>{_CORNERS}</bbox></object>" * 3}</annotation>'.encode()
_SPLIT = Split(
    label_ratio=0.5,
    seed=0,
    data_hash="d",
    labeled=["a"],
    unlabeled=["b"],
    validation=["c"],
    tests={"test": ["e"]},
    content_hash="",
)
_MANIFEST = {
    **{"name": "rows", "image_size": 2, "sample_rate": 16000, "n_samples_audio": 2, "counts": {"train": 1}},
    **{"classes": ["c"], "settings": {}, "content_hash": "h", "expected": {}},
    "shards": [{"file": "shard-0.arrow", "rows": 1, "bytes": 1, "sha256": "s"}],
}

Read = Callable[[Path], Any]


def _list(data: str, **settings: str) -> Read:
    """Lists the rows of a data set that holds the file, and no media."""

    def read(path: Path) -> None:
        for folder in ("frames", "audio"):
            (path.parent / folder).mkdir()
        read_index, model = on_disk()[data]
        for _ in read_index(model.read({"root": str(path.parent)} | settings, f"data.{data}")).entries:
            pass

    return read


# What is read, from which published file (of it as many lines as make a small one), by what.
_PUBLISHED: dict[str, Read] = {
    "vggss.json": read_annotations,
    "s4_box.json": read_pixel_boxes,
    "synthetic3240_bbox.json": read_pixel_boxes,
    "vggss_10k.txt": lambda path: read_list(path, "training list"),
    "flickr_test.csv": lambda path: read_list(path, "test list"),
    "vggsound_duet_test.csv": lambda path: read_table(path, 4, "list of pairs"),
    "ms3_box.json": _list("avsbench", subset="ms3", boxes="ms3_box.json"),
    "music_solo.json": _list("music"),
    "music_duet.json": _list("music", subset="duet"),
    "vgginstruments_test.csv": _list("vggsound_instruments", pairs=""),
    "vggss_test_plus_silent.csv": lambda path: add_silent([], path, Media({}, {})),
}
_OURS: dict[str, tuple[bytes, Read]] = {
    "annotation.xml": (_XML, read_boxes),
    "boxes.csv": (b'file,class,x0,y0,x1,y1\na,"dog, barking",0,0,0.5,1\nb,cat,,,,\n', read_annotations),
    "vggsound.csv": (b"abcdefghijk,10,dog,train\nABCDEFGHIJK,20,cat,test\n", _list("vggsound", annotations="")),
    "manifest.json": (json.dumps(_MANIFEST, indent=2).encode(), lambda path: PreparedData.open(path.parent)),
    "split.json": (_SPLIT.model_dump_json(indent=2).encode(), Split.load),
    "model.json": (b'{"members": [{}], "image_size": 64}', lambda path: read_description(path.parent)),
}

# Bytes that mean something to a parser, and some that mean nothing.
_TOKENS = [
    *(b"\0", b"\xff", b"\xed\xa0\x80", b'"', b"'", b"<", b">", b"&x;", b"]]>", b"{", b"}", b"[", b"]", b",", b"\r"),
    *(b"NaN", b"1e999", b"-", b"null", b"\\ud800", b"../", b'<?xml version="1.0" encoding="klingon"?>', b"\n\n"),
    *(b"<!DOCTYPE a [<!ENTITY x 'y'>]>", b"9" * 5000, b"[" * 2000, b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\xc2\xb2"),
]
_mutations = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 12), st.one_of(st.sampled_from(_TOKENS), st.binary(max_size=4))),
    min_size=1,
    max_size=4,
)


def _mutated(content: bytes, mutations: list[tuple[float, int, bytes]]) -> bytes:
    """Some bytes at some places replaced by others."""
    for where, length, by in mutations:
        start = round(where * len(content))
        content = content[:start] + by + content[start + length :]
    return content


def _read(name: str, content: bytes, read: Read) -> None:
    """Read the content from a file of that name; only our own refusals may come."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        try:
            read(path)
        except (DataError, ConfigError) as error:
            told = str(error)
        else:
            return
        assert folder in told


@pytest.mark.parametrize("name", _OURS)
@settings(max_examples=60, deadline=None)
@given(mutations=_mutations)
def test_what_we_write_or_ask_for(name: str, mutations: list[tuple[float, int, bytes]]) -> None:
    """Never another exception than a DataError or ConfigError that names the file."""
    content, read = _OURS[name]
    _read(name, _mutated(content, mutations), read)


@pytest.mark.parametrize("name", _PUBLISHED)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations=_mutations)
def test_what_is_published(name: str, mutations: list[tuple[float, int, bytes]]) -> None:
    """The same of the first rows of the files as their authors publish them."""
    path = find_shared(f"annotations/{name}")
    with path.open("rb") as file:
        start = file.read(1500)
    if path.suffix == ".json":
        whole = json.loads(path.read_bytes())[:4]
        start = json.dumps(whole, indent=1).encode()
    _read(name, _mutated(start, mutations), _PUBLISHED[name])


@pytest.mark.parametrize("file", ["../shard-0.arrow", "/etc/passwd", "a/b.arrow", "a\\b", "a\nb"])
def test_a_manifest_leads_to_no_file_outside_its_folder(file: str, tmp_path: Path) -> None:
    """A shard's name is a name."""
    shards = [{"file": file, "rows": 1, "bytes": 1, "sha256": "s"}]
    (tmp_path / "manifest.json").write_text(json.dumps(_MANIFEST | {"shards": shards}))
    with pytest.raises(DataError, match=facts("shards.0.file")):
        PreparedData.open(tmp_path)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd"])
def test_a_lists_name_leads_to_no_file_outside_the_folder(name: str, tmp_path: Path) -> None:
    """An annotation or a mask is looked for only by the names of pictures that are there."""
    root = tmp_path / "data" / "set"
    for folder in ("frames", "audio", "Annotations", "masks"):
        (root / folder).mkdir(parents=True)
    (root / "frames" / "a.jpg").touch()
    (root / "flickr_test.csv").write_text(f"{name}\na\n")
    (root / "flickr_sup_train.txt").write_text("b\n")
    outside = (root / "Annotations" / f"{name}.xml") if name.startswith("..") else tmp_path / "unused"
    outside.resolve().parent.mkdir(parents=True, exist_ok=True)
    outside.resolve().write_bytes(_XML)
    index = read_flickr(FlickrConfig(root=str(root), train_list=""))
    told = {entry.sample_id: entry for entry in index.entries}
    assert told[name].boxes is None
    assert says(told["a"].broken, "a.xml")
    media = Media.read(root)
    assert media.masked_entry(root / "masks", name).files() == [None, None]
    assert "no mask" in media.masked_entry(root / "masks", "a").broken


def test_entities_are_never_expanded(tmp_path: Path) -> None:
    """A billion laughs, a quadratic blow-up, a file's content: refused where they are declared."""
    levels = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10}">' for k in range(1, 10))
    declared = {
        "laughs": f'[<!ENTITY l0 "lol">{levels}]',
        "blow-up": f'[<!ENTITY l9 "{"a" * 100_000}">]',
        "file": '[<!ENTITY l9 SYSTEM "file:///etc/hostname">]',
        "parameter": '[<!ENTITY % l9 "x">]',
    }
    for name, declaration in declared.items():
        path = tmp_path / f"{name}.xml"
        path.write_text(f"<!DOCTYPE a {declaration}><a><object><bbox><i/><x>{'&l9;' * 1000}</x></bbox></object></a>")
        with pytest.raises(DataError, match=rf"{name}\.xml: declares the entity 'l[09]'"):
            read_boxes(path)
