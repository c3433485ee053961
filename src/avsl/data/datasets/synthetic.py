"""The embedded benchmark: procedural audio-visual scenes with exact boxes and masks.

A class is a shape with a texture, and a timbre. Color, position, size and slight rotation are independent of the class,
and most shapes and textures belong to two classes. Each scene has a random generator seeded by (seed, part, number), so
it depends neither on the number of workers nor on the shard size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, field_validator

from avsl.data.prepared.contact_sheet import write_contact_sheet
from avsl.data.prepared.format import PARTS, Manifest, Sample
from avsl.data.prepared.reader import PreparedData
from avsl.data.prepared.writer import ShardRows, prepare_shards, write_manifest
from avsl.schema import StrictConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SAMPLE_RATE = 16000
# Fractions of the frame; the frame's edge or another object may hide a little of an object.
AREA_RANGE = (0.02, 0.35)
SMALL_RANGE = (0.02, 0.05)
MIN_VISIBLE = 0.7
SNR_DB = (0.0, 20.0)
_OBJECT_COUNT_PROBABILITIES = (0.25, 0.4, 0.35)
# Largest total area of one, two or three objects in a frame.
_MAX_TOTAL_AREA = (0.34, 0.5, 0.42)


class SyntheticConfig(StrictConfig):
    """Sizes of the generated set; each ``n_`` is a number of rows."""

    image_size: int = Field(64, ge=32, le=512)
    duration_s: float = Field(1.0, ge=0.25, le=10.0)
    n_train: int = Field(3000, ge=1)
    n_validation: int = Field(300, ge=1)
    n_test: int = Field(2000, ge=1)
    n_small: int = Field(150, ge=0)
    n_duet: int = Field(150, ge=0)
    n_offscreen: int = Field(150, ge=0)
    n_swap: int = Field(150, ge=0)
    n_unheard: int = Field(150, ge=0)
    seed: int = Field(0, ge=0)
    shard_rows: int = Field(256, ge=4)

    @field_validator("n_swap")
    @classmethod
    def _a_frame_has_two_sounds(cls, value: int) -> int:
        if value == 1:
            raise ValueError("a frame with swapped sounds needs at least 2 rows")
        return value


# --- Sight -----------------------------------------------------------------------------------------------
# A shape is a signed distance (negative inside) over coordinates in which its area is 1, y pointing down.

_RIM = 0.13
_STAR_OUTER, _STAR_INNER = 0.8696, 0.3913
_STAR_EDGE = (
    _STAR_INNER * np.cos(np.pi / 5) - _STAR_OUTER,
    _STAR_INNER * np.sin(np.pi / 5),
)


def _rectangle(u: Array, v: Array, half_width: float, half_height: float) -> Array:
    return np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)


def _triangle(u: Array, v: Array) -> Array:
    return np.maximum(v, np.abs(u) * 0.8660254 - v * 0.5) - 0.4387


def _star(u: Array, v: Array) -> Array:
    sector = 2 * np.pi / 5
    angle = np.abs((np.arctan2(u, -v) + sector / 2) % sector - sector / 2)
    radius = np.hypot(u, v)
    along, across = _STAR_EDGE
    normal = np.hypot(along, across)
    return np.asarray(((radius * np.cos(angle) - _STAR_OUTER) * across - radius * np.sin(angle) * along) / normal)


def _cross(u: Array, v: Array) -> Array:
    return np.minimum(_rectangle(u, v, 0.6708, 0.2236), _rectangle(u, v, 0.2236, 0.6708))


def _crescent(u: Array, v: Array) -> Array:
    u = u - 0.15
    return np.maximum(np.hypot(u, v) - 0.7695, 0.6156 - np.hypot(u - 0.4617, v))


_SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": lambda u, v: np.hypot(u, v) - 0.5642,
    "square": lambda u, v: _rectangle(u, v, 0.5, 0.5),
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "annulus": lambda u, v: np.abs(np.hypot(u, v) - 0.458) - 0.1738,
    "bar": lambda u, v: _rectangle(u, v, 0.7746, 0.3227),
    "crescent": _crescent,
}


@dataclass(frozen=True)
class _Surface:
    """Inputs of a texture: coordinates, distance to the outline, pixels per unit, a random period and phase."""

    u: Array
    v: Array
    distance: Array
    scale: float
    stretch: float
    phase: float

    def wave(self, x: Array, period: float) -> Array:
        return np.sin(2 * np.pi * (x / (period * self.stretch)) + self.phase)


# A texture is the share of the second color, before it is clipped to [0, 1].
_TEXTURES: dict[str, Callable[[_Surface], Array]] = {
    "solid": lambda s: np.zeros_like(s.u),
    "stripes": lambda s: 0.5 + 2 * s.wave(s.v, 0.42),
    "checker": lambda s: 0.5 + 3 * s.wave(s.u, 0.6) * s.wave(s.v, 0.6),
    "dots": lambda s: 2 * (s.wave(s.u, 0.4) + s.wave(s.v, 0.4) - 0.7),
    "rings": lambda s: 0.5 + 2 * s.wave(np.hypot(s.u, s.v), 0.4),
    "gradient": lambda s: 0.5 + 1.1 * s.v,
    "half": lambda s: 0.5 + s.u * s.scale,
    "rim": lambda s: 0.5 + (s.distance + _RIM) * s.scale,
}


# --- Sound -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Timbre:
    """Parameters of a sound.

    Attributes:
        pitch: in Hz, before the jitter.
        partials: (multiple of the pitch, amplitude).
        vibrato: rate in Hz, depth in semitones.
        glide: change of the pitch within each pulse, in semitones.
        tremolo: rate in Hz, depth in [0, 1].
        pulses: rate in Hz, decay in 1/s; (0, 0) is a sustained sound.
        noise: band in Hz.
        noise_share: share of the noise in the amplitude, in [0, 1].
    """

    pitch: float = 440.0
    partials: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    vibrato: tuple[float, float] = (0.0, 0.0)
    glide: float = 0.0
    tremolo: tuple[float, float] = (0.0, 0.0)
    pulses: tuple[float, float] = (0.0, 0.0)
    noise: tuple[float, float] = (0.0, 0.0)
    noise_share: float = 0.0


def _saw(n: int) -> tuple[tuple[float, float], ...]:
    return tuple((float(k), 1 / k) for k in range(1, n + 1))


_BELL = ((1.0, 1.0), (2.76, 0.7), (5.4, 0.5), (8.93, 0.3))
_VOWEL = ((1.0, 0.3), (2.0, 0.4), (4.0, 0.6), (5.0, 1.0), (6.0, 0.7), (8.0, 0.6), (9.0, 0.5))

_HEARD: dict[str, _Timbre] = {
    "disc-stripes": _Timbre(pitch=220, partials=_saw(8), vibrato=(6, 0.8)),
    "square-checker": _Timbre(pulses=(9, 30), noise=(3000, 6000), noise_share=1),
    "square-rim": _Timbre(pitch=260, partials=((1, 1), (3, 0.8), (5, 0.6), (7, 0.5))),
    "triangle-solid": _Timbre(pitch=700, partials=((1, 1), (2, 0.1)), tremolo=(7, 0.9)),
    "star-rings": _Timbre(pitch=520, partials=_BELL, pulses=(3, 7)),
    "star-gradient": _Timbre(pitch=900, partials=((1, 1), (2, 0.3)), glide=14, pulses=(5, 4)),
    "cross-stripes": _Timbre(tremolo=(3, 0.8), noise=(100, 500), noise_share=1),
    "cross-solid": _Timbre(pitch=900, partials=((1, 1), (2, 0.3)), glide=-14, pulses=(5, 4)),
    "annulus-half": _Timbre(noise=(4500, 7500), noise_share=1),
    "bar-dots": _Timbre(pitch=300, partials=_saw(6), pulses=(6, 14)),
    "bar-gradient": _Timbre(pitch=1200, partials=((1, 1), (1.5, 0.6)), tremolo=(35, 1)),
    "crescent-rim": _Timbre(pitch=500, partials=((1, 1), (2, 0.5), (3, 0.3)), vibrato=(2.5, 5)),
}
_UNHEARD: dict[str, _Timbre] = {
    "disc-half": _Timbre(pitch=140, partials=_VOWEL),
    "triangle-dots": _Timbre(pulses=(4, 25), noise=(600, 1400), noise_share=1),
    "annulus-checker": _Timbre(pitch=330, partials=((1, 1), (4, 0.8), (7, 0.5)), tremolo=(1.5, 0.5)),
    "crescent-rings": _Timbre(pitch=400, partials=_saw(3), pulses=(2.5, 4), noise=(1000, 3000), noise_share=0.5),
}
_TIMBRES = {**_HEARD, **_UNHEARD}
HEARD_CLASSES = tuple(_HEARD)
UNHEARD_CLASSES = tuple(_UNHEARD)
CLASSES = HEARD_CLASSES + UNHEARD_CLASSES


def _unit_power(signal: Array) -> Array:
    return np.asarray(signal / np.sqrt(np.mean(signal**2)))


def _noise(rng: np.random.Generator, n: int, shape: Callable[[Array], Array]) -> Array:
    """Draw noise of unit power whose magnitude spectrum is ``shape``, a function of the frequency in Hz."""
    frequency = np.arange(n // 2 + 1, dtype=np.float64) * (SAMPLE_RATE / n)
    parts = rng.standard_normal((2, len(frequency)))
    return _unit_power(np.fft.irfft(shape(frequency) * (parts[0] + 1j * parts[1]), n))


def synthesize(label: str, rng: np.random.Generator, n: int) -> Array:
    """Synthesize a sound of a class.

    Args:
        label: one of ``CLASSES``.
        rng: draws pitch, tempo, phase and onset.
        n: number of samples at 16 kHz.

    Returns:
        (n,) of unit power.
    """
    timbre = _TIMBRES[label]
    time = np.arange(n) / SAMPLE_RATE
    jitter, tempo = 2 ** (rng.uniform(-3, 3) / 12), rng.uniform(0.9, 1.1)
    beat_phase, tremolo_phase, vibrato_phase = rng.random(3)
    onset = rng.uniform(0, 0.25) * time[-1]

    rate, decay = timbre.pulses
    beat = (time * rate * tempo + beat_phase) % 1
    semitones = timbre.glide * (beat - 0.5)
    if timbre.vibrato[1]:
        wave = np.sin(2 * np.pi * (time * timbre.vibrato[0] * tempo + vibrato_phase))
        semitones = semitones + timbre.vibrato[1] * wave
    phase = 2 * np.pi * np.cumsum(timbre.pitch * jitter * 2 ** (semitones / 12)) / SAMPLE_RATE
    signal = np.zeros(n)
    if timbre.noise_share < 1:
        for multiple, amplitude in timbre.partials:
            signal += amplitude * np.sin(multiple * phase + rng.uniform(0, 2 * np.pi))
        signal = (1 - timbre.noise_share) * _unit_power(signal)
    if timbre.noise_share > 0:
        low, high = timbre.noise
        signal += timbre.noise_share * _noise(rng, n, lambda f: ((f >= low) & (f <= high)).astype(np.float64))

    if rate:
        since = beat / (rate * tempo)
        signal *= np.minimum(since / 0.005, 1) * np.exp(-decay * since)
    if timbre.tremolo[1]:
        swing = np.sin(2 * np.pi * (time * timbre.tremolo[0] * tempo + tremolo_phase))
        signal *= 1 - timbre.tremolo[1] * 0.5 * (1 + swing)
    signal *= np.clip((time - onset) / 0.01, 0, 1)
    return _unit_power(signal)


def _record(labels: Sequence[str], rng: np.random.Generator, n: int) -> tuple[NDArray[np.int16], float]:
    """Mix the labels' sounds, equally loud, with background noise; returns (n,) int16 and the SNR in dB."""
    signal = _unit_power(np.sum([synthesize(label, rng, n) for label in labels], axis=0))
    snr = rng.uniform(*SNR_DB)
    tilt = rng.uniform(0, 0.5)
    noise = _noise(rng, n, lambda f: np.maximum(f, 50.0) ** -tilt)
    mixed = signal + noise * 10 ** (-snr / 20)
    mixed *= 32767 * rng.uniform(0.3, 0.9) / np.abs(mixed).max()
    return np.rint(mixed).astype(np.int16), float(round(snr, 2))


# --- Scenes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Body:
    """A placed object: its window in the frame, its coverage there, and its texture's mix of two colors."""

    window: tuple[slice, slice]
    coverage: Array
    mix: Array

    @property
    def inside(self) -> NDArray[np.bool_]:
        return self.coverage >= 0.5


def _body(label: str, center: Array, area: float, rng: np.random.Generator, side: int) -> _Body:
    shape, texture = label.split("-")
    scale = np.sqrt(area) * side
    reach = 0.9 * scale + 1
    x, y = center * side
    columns = slice(max(0, int(x - reach)), min(side, int(x + reach) + 1))
    rows = slice(max(0, int(y - reach)), min(side, int(y + reach) + 1))
    angle = rng.uniform(-np.pi / 12, np.pi / 12)
    stretch, phase, flip = rng.uniform(0.9, 1.1), rng.uniform(0, 2 * np.pi), rng.integers(0, 2)
    du = ((np.arange(columns.start, columns.stop) + 0.5 - x) / scale)[None, :]
    dv = ((np.arange(rows.start, rows.stop) + 0.5 - y) / scale)[:, None]
    u = np.cos(angle) * du + np.sin(angle) * dv
    v = np.cos(angle) * dv - np.sin(angle) * du
    distance = _SHAPES[shape](u, v)
    mix = np.clip(_TEXTURES[texture](_Surface(u, v, distance, scale, stretch, phase)), 0, 1)
    return _Body((rows, columns), np.clip(0.5 - distance * scale, 0, 1), 1 - mix if flip else mix)


def _areas(rng: np.random.Generator, count: int, small: int | None) -> Array:
    """Draw log-uniform areas whose sum is at most `_MAX_TOTAL_AREA`."""
    while True:
        areas = np.exp(rng.uniform(np.log(0.022), np.log(0.34), count))
        if small is not None:
            areas[small] = np.exp(rng.uniform(np.log(0.021), np.log(0.049)))
        if areas.sum() <= _MAX_TOTAL_AREA[count - 1]:
            return areas


def _centers(rng: np.random.Generator, areas: Array) -> Array | None:
    """Draw (n, 2) centers far enough apart, together so that no object is favored; None if none of the draws fits."""
    radius = np.sqrt(areas)
    margin = np.minimum(0.58 * radius, 0.5)[:, None]
    draws = margin + rng.random((32, len(areas), 2)) * (1 - 2 * margin)
    offsets = draws[:, :, None] - draws[:, None]
    reach = 0.52 * (radius[:, None] + radius[None])
    np.fill_diagonal(reach, 0)
    fits = (np.hypot(offsets[..., 0], offsets[..., 1]) >= reach).all(axis=(1, 2))
    return draws[fits.argmax()] if fits.any() else None


def _visible(bodies: Sequence[_Body], side: int) -> list[NDArray[np.bool_]]:
    """Return each body's visible pixels, (side, side); a later body covers earlier ones."""
    free = np.ones((side, side), dtype=bool)
    masks = []
    for body in reversed(bodies):
        mask = np.zeros((side, side), dtype=bool)
        mask[body.window] = body.inside
        masks.append(mask & free)
        free &= ~mask
    return masks[::-1]


def _arrange(
    labels: Sequence[str], rng: np.random.Generator, side: int, small: int | None
) -> tuple[list[_Body], list[NDArray[np.bool_]]]:
    """Draw places until each object is visible and within its range of areas.

    ``small`` is the index of the object that must be within ``SMALL_RANGE``.
    """
    while True:
        areas = _areas(rng, len(labels), small)
        centers = _centers(rng, areas)
        if centers is None:
            continue
        bodies = [
            _body(label, center, area, rng, side) for label, center, area in zip(labels, centers, areas, strict=True)
        ]
        masks = _visible(bodies, side)
        shares = np.array([mask.mean() for mask in masks])
        low, high = (np.full(len(labels), bound) for bound in AREA_RANGE)
        if small is not None:
            low[small], high[small] = SMALL_RANGE
        if ((shares >= low) & (shares <= high) & (shares >= MIN_VISIBLE * areas)).all():
            return bodies, masks


def _color(rng: np.random.Generator, unlike: Sequence[Array], distance: float) -> Array:
    """Draw an RGB color at least ``distance`` away from each of ``unlike``."""
    while True:
        for color in rng.uniform(0, 255, (8, 3)):
            if all(np.sqrt(((color - other) ** 2).sum()) >= distance for other in unlike):
                return np.asarray(color)


def _backdrop(rng: np.random.Generator, side: int) -> tuple[Array, Array]:
    """Draw a (side, side, 3) background with strokes and blotches of no class; returns its base color too."""
    base = rng.uniform(40, 215, 3)
    grid = (np.arange(side) + 0.5) / side
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * (grid[None, :] - 0.5) + np.sin(angle) * (grid[:, None] - 0.5)
    canvas = base + ramp[..., None] * rng.uniform(-60, 60, 3)
    for _ in range(rng.integers(5, 16)):
        tint = base + rng.uniform(-90, 90, 3)
        x, y = rng.random(2)
        turn = rng.uniform(0, np.pi)
        if rng.random() < 0.6:
            long, wide = rng.uniform(0.04, 0.2), rng.uniform(0.007, 0.018)
        else:
            long = rng.uniform(0.02, 0.06)
            wide = long * rng.uniform(0.4, 0.8)
        rows = slice(max(0, int((y - long) * side)), int((y + long) * side) + 2)
        columns = slice(max(0, int((x - long) * side)), int((x + long) * side) + 2)
        dx, dy = grid[None, columns] - x, grid[rows, None] - y
        along = (np.cos(turn) * dx + np.sin(turn) * dy) / long
        across = (np.cos(turn) * dy - np.sin(turn) * dx) / wide
        cover = np.clip((1 - along**2 - across**2) * wide * side, 0, 1)[..., None]
        canvas[rows, columns] += cover * (tint - canvas[rows, columns])
    return canvas, base


def _draw(
    labels: Sequence[str], rng: np.random.Generator, side: int, small: int | None
) -> tuple[Array, list[NDArray[np.bool_]]]:
    """Draw a frame with one object per label, in random order; returns each object's visible pixels too."""
    bodies, masks = _arrange(labels, rng, side, small)
    canvas, base = _backdrop(rng, side)
    for body in bodies:
        first = _color(rng, [base], 130)
        second = _color(rng, [base, first], 110)
        paint = first + body.mix[..., None] * (second - first)
        canvas[body.window] += body.coverage[..., None] * (paint - canvas[body.window])
    canvas += rng.uniform(2, 8) * rng.standard_normal(canvas.shape)
    return canvas, masks


def _box(mask: NDArray[np.bool_]) -> list[float]:
    side = len(mask)
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return [columns[0] / side, rows[0] / side, (columns[-1] + 1) / side, (rows[-1] + 1) / side]


def _swap_counts(rows: int) -> list[int]:
    """Return numbers of objects per frame, alternating two and three, that add up to ``rows``."""
    counts: list[int] = []
    left = rows
    while left:
        take = min(2 + len(counts) % 2, left)
        if left - take == 1:
            take = 5 - take
        counts.append(take)
        left -= take
    return counts


def _plan(config: SyntheticConfig) -> list[tuple[str, int, int]]:
    """Return (part, number of the scene, its number of rows), in order."""
    rows = {
        "train": config.n_train,
        "validation": config.n_validation,
        "test": config.n_test,
        "test_small": config.n_small,
        "test_duet": config.n_duet,
        "test_offscreen": config.n_offscreen,
        "test_unheard": config.n_unheard,
    }
    scenes = [(part, i, 1) for part, n in rows.items() for i in range(n)]
    return scenes + [("test_swap", i, n) for i, n in enumerate(_swap_counts(config.n_swap))]


def _shards(config: SyntheticConfig) -> list[list[tuple[str, int, int]]]:
    """Divide the plan into shards; a scene's rows stay together."""
    shards: list[list[tuple[str, int, int]]] = [[]]
    filled = 0
    for scene in _plan(config):
        if filled + scene[2] > config.shard_rows:
            shards.append([])
            filled = 0
        shards[-1].append(scene)
        filled += scene[2]
    return shards


def make_scene(config: SyntheticConfig, part: str, i: int, rows: int = 1) -> list[Sample]:
    """Make the i-th scene of a part.

    Args:
        config: frame size, duration and seed.
        part: one of ``PARTS``.
        i: number of the scene; sounding classes alternate with it.
        rows: number of rows, one for each object of a ``test_swap`` frame, otherwise 1.

    Returns:
        One sample per sound; the label of a duet joins its two classes by ``+``.
    """
    side, n = config.image_size, round(config.duration_s * SAMPLE_RATE)
    key = [config.seed, PARTS.index(part), i]
    rng = np.random.default_rng([*key, 0])
    sounding_classes = UNHEARD_CLASSES if part == "test_unheard" else HEARD_CLASSES
    view_classes = CLASSES if part == "test_unheard" else HEARD_CLASSES
    first = sounding_classes[i % len(sounding_classes)]
    others = [label for label in view_classes if label != first]
    count = 1 + int(rng.choice(3, p=_OBJECT_COUNT_PROBABILITIES))
    if part == "test_duet":
        count = max(count, 2)
    if part == "test_swap":
        count = rows
    in_view = [first, *rng.permutation(others)[: count - 1].tolist()]
    if part == "test_offscreen":
        in_view = rng.permutation(others)[:count].tolist()
    labels = rng.permutation(in_view).tolist()
    canvas, masks = _draw(labels, rng, side, labels.index(first) if part == "test_small" else None)
    frame = np.rint(np.clip(canvas, 0, 255)).astype(np.uint8)

    source = f"{part}-{i:05d}"
    sounds = [[first]]
    if part == "test_duet":
        sounds = [in_view[:2]]
    if part == "test_swap":
        sounds = [[label] for label in in_view]
    samples = []
    for j, sounding in enumerate(sounds):
        waveform, snr = _record(sounding, np.random.default_rng([*key, 1 + j]), n)
        shown = [masks[labels.index(label)] for label in sounding if label in labels]
        mask = np.logical_or.reduce(shown) if shown else np.zeros((side, side), dtype=bool)
        samples.append(
            Sample(
                sample_id=f"{source}-{j}" if part == "test_swap" else source,
                source_id=source,
                group_id=source,
                part=part,
                label="+".join(sounding),
                frame=frame,
                waveform=waveform,
                boxes=np.array([_box(one) for one in shown], dtype=np.float32).reshape(-1, 4),
                mask=mask,
                meta={
                    "snr_db": snr,
                    "area": round(float(mask.mean()), 4),
                    "in_view": sorted(labels),
                    "sounding": sounding,
                },
            )
        )
    return samples


@dataclass(frozen=True)
class _MakeScenes:
    config: SyntheticConfig

    def __call__(self, k: int) -> ShardRows:
        scenes = _shards(self.config)[k]
        return ShardRows([sample for scene in scenes for sample in make_scene(self.config, *scene)])


def generate(config: SyntheticConfig, root: Path, workers: int) -> Manifest:
    """Generate the benchmark and its contact sheet into ``root``; the bytes depend on ``config`` alone.

    Args:
        config: sizes of the set.
        root: folder of the prepared set; finished shards of an interrupted call with this config are kept.
        workers: number of processes, at least 1.

    Returns:
        The written manifest.
    """
    manifest, _ = prepare_shards(
        root,
        _MakeScenes(config),
        len(_shards(config)),
        name="synthetic",
        image_size=config.image_size,
        sample_rate=SAMPLE_RATE,
        n_samples_audio=round(config.duration_s * SAMPLE_RATE),
        classes=CLASSES,
        settings=config.model_dump(),
        workers=workers,
    )
    write_manifest(root, manifest)
    write_contact_sheet(PreparedData.open(root))
    return manifest
