# SPDX-License-Identifier: Apache-2.0
"""Draw one image of the shapes dataset: a textured background with shaded, rotated shapes, and their boxes."""

from colorsys import hsv_to_rgb
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("circle", "square", "triangle", "star", "ring")

# Lengths are fractions of the image's side, so images of all sizes look the same.
_RADIUS = (0.08, 0.42)  # of an object: diameters of 20 to 107 pixels in an image of 128, so small, medium and large
_CROWD_RADIUS = (0.025, 0.035)  # of a member of a crowd
_CROWD_SIDE = (0.3, 0.5)
_MAX_OBJECTS = 5
_EMPTY, _CROWD = 0.05, 0.06  # fractions of images without objects and with a crowd region
_INSIDE = 0.7  # minimum fraction of an object inside the image ...
_VISIBLE = 0.6  # ... and minimum fraction of that which stays visible behind other objects
_CONTRAST = 90.0  # minimum RGB distance (at most 441) between an object and its background
_TILT = pi / 9  # maximum rotation, 20 degrees in both directions
_HUE_SPREAD = 0.08  # standard deviation from the typical hue of a class; those are a fifth of the circle apart
_NOISE = 5.0  # standard deviation of pixel values in 0..255
_OVERSAMPLING = 4  # for smooth edges


@dataclass(frozen=True)
class Shape:
    """One annotation: class index, COCO box ([x, y, width, height] in pixels), and whether it is a crowd region."""

    class_index: int
    box: tuple[float, float, float, float]
    is_crowd: bool = False


def draw_image(rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[Shape]]:
    """Draw an image of `size` x `size` pixels with up to five shapes.

    The box of a shape encloses its part inside the image, including parts hidden by other shapes. A shape that would
    hide more than 40 % of another one is not drawn.

    Returns:
        the image, uint8 [size, size, 3] in RGB, and its annotations (none for some images).
    """
    canvas = _Canvas(rng, size)
    shapes: list[Shape | None] = []
    if rng.random() >= _EMPTY:
        if rng.random() < _CROWD:
            shapes.append(_draw_crowd(rng, canvas))
        # Large shapes are drawn first, because they would hide most of a small one.
        low, high = np.log(_RADIUS)
        radii = size * np.exp(rng.uniform(low, high, size=int(rng.integers(1, _MAX_OBJECTS + 1))))
        shapes += [_draw_object(rng, canvas, radius) for radius in sorted(radii, reverse=True)]
    noisy = canvas.pixels + rng.normal(0, _NOISE, canvas.pixels.shape)
    return noisy.clip(0, 255).round().astype(np.uint8), [shape for shape in shapes if shape is not None]


class _Canvas:
    """The pixels, and the shape that each pixel shows (-1 for the background)."""

    def __init__(self, rng: np.random.Generator, size: int):
        self.size = size
        self.pixels = _ground(rng, size)  # float [size, size, 3]
        self.owner = np.full((size, size), -1)
        self.areas: list[int] = []  # pixels of each shape inside the image, including hidden ones

    def has_room_for(self, mask: np.ndarray) -> bool:
        """Whether all existing shapes stay sufficiently visible if `mask` (bool [size, size]) covers them."""
        visible = np.bincount(self.owner[~mask] + 1, minlength=len(self.areas) + 1)[1:]
        return bool((visible >= _VISIBLE * np.asarray(self.areas)).all())

    def paint(self, coverage: np.ndarray, colour: np.ndarray) -> None:
        """Blend `colour` (float [size, size, 3]) over the pixels, weighted by the coverage in [0, 1]."""
        self.pixels += coverage[..., None] * (colour - self.pixels)

    def claim(self, mask: np.ndarray) -> None:
        self.owner[mask] = len(self.areas)
        self.areas.append(int(mask.sum()))


def _draw_object(rng: np.random.Generator, canvas: _Canvas, radius: float, attempts: int = 20) -> Shape | None:
    """Draw one shape at a random free place; None if no place is found."""
    class_index = int(rng.integers(len(CLASSES)))
    for _ in range(attempts):
        centre = rng.uniform(0, canvas.size, size=2)
        rings = _place(rng, class_index, centre, radius)
        coverage, inside = _rasterise(rings, canvas.size)
        mask = coverage > 0.5
        if inside >= _INSIDE and canvas.has_room_for(mask):
            colour = _colour(rng, class_index, canvas.pixels[mask].mean(axis=0))
            canvas.paint(coverage, _shading(rng, colour, canvas.size))
            canvas.claim(mask)
            return Shape(class_index, _box(rings[0], canvas.size))
    return None


def _draw_crowd(rng: np.random.Generator, canvas: _Canvas) -> Shape:
    """Draw many tiny shapes of one class close together, with one annotation for all, as for a crowd in COCO."""
    class_index = int(rng.integers(len(CLASSES)))
    side = canvas.size * rng.uniform(*_CROWD_SIDE, size=2)
    corner = rng.uniform(0.05 * canvas.size, 0.95 * canvas.size - side)
    around = canvas.pixels[tuple(slice(int(c), int(c + s)) for c, s in zip(corner[::-1], side[::-1], strict=True))]
    colour = _colour(rng, class_index, around.mean(axis=(0, 1)))
    region = np.zeros((canvas.size, canvas.size), dtype=bool)
    points = []
    for _ in range(rng.integers(14, 23)):
        radius = canvas.size * rng.uniform(*_CROWD_RADIUS)
        rings = _place(rng, class_index, corner + rng.uniform(0, side), radius)
        coverage, _ = _rasterise(rings, canvas.size)
        canvas.paint(coverage, _shading(rng, colour + rng.normal(0, 12, size=3), canvas.size))
        region |= coverage > 0.5
        points.append(rings[0])
    canvas.claim(region)
    return Shape(class_index, _box(np.concatenate(points), canvas.size), is_crowd=True)


def _outline(class_index: int) -> list[np.ndarray]:
    """Corner points [n, 2] in the unit circle; a second array outlines a hole."""

    def around(n: int, radius: float | np.ndarray = 1.0, start: float = -pi / 2) -> np.ndarray:
        angles = 2 * pi * np.arange(n) / n + start
        return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.reshape(radius, (-1, 1))

    match CLASSES[class_index]:
        case "circle":
            return [around(96)]
        case "square":
            return [around(4, start=pi / 4)]
        case "triangle":
            return [around(3)]
        case "star":
            return [around(10, np.tile([1.0, 0.45], 5))]
        case _:  # the ring
            return [around(96), around(96, 0.55)]


def _place(rng: np.random.Generator, class_index: int, centre: np.ndarray, radius: float) -> list[np.ndarray]:
    """The outline in pixels, after a random stretch and rotation, scaling and translation."""
    stretch = np.exp(rng.uniform(-0.1, 0.1))
    angle = rng.uniform(-_TILT, _TILT)
    rotation = np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    matrix = rotation @ np.diag([stretch, 1 / stretch]) * radius
    return [ring @ matrix.T + centre for ring in _outline(class_index)]


def _rasterise(rings: list[np.ndarray], size: int) -> tuple[np.ndarray, float]:
    """Coverage of each pixel in [0, 1], float [size, size], and the fraction of the shape inside the image."""
    low = np.floor(rings[0].min(axis=0)).astype(int)
    high = np.ceil(rings[0].max(axis=0)).astype(int)
    drawn = Image.new("L", tuple((high - low) * _OVERSAMPLING))
    pen = ImageDraw.Draw(drawn)
    for ring, fill in zip(rings, (255, 0), strict=False):
        # Here integer coordinates are pixel edges; in Pillow they are pixel centres.
        pen.polygon([tuple(point) for point in (ring - low) * _OVERSAMPLING - 0.5], fill=fill)
    patch = np.asarray(drawn.reduce(_OVERSAMPLING), dtype=np.float64) / 255

    coverage = np.zeros((size, size))
    start, stop = low.clip(0, size), high.clip(0, size)
    (x0, y0), (x1, y1) = start - low, stop - low
    coverage[start[1] : stop[1], start[0] : stop[0]] = patch[y0:y1, x0:x1]
    return coverage, coverage.sum() / patch.sum()


def _box(points: np.ndarray, size: int) -> tuple[float, float, float, float]:
    """COCO box around the part of a polygon [n, 2] inside the image, rounded to hundredths of a pixel."""
    for axis in (0, 1):
        points = _cut(points, axis, 0, keep_above=True)
        points = _cut(points, axis, size, keep_above=False)
    (x0, y0), (x1, y1) = points.min(axis=0).round(2), points.max(axis=0).round(2)
    return float(x0), float(y0), round(float(x1 - x0), 2), round(float(y1 - y0), 2)


def _cut(points: np.ndarray, axis: int, limit: float, keep_above: bool) -> np.ndarray:
    """Clip a polygon at a vertical or horizontal line (Sutherland–Hodgman algorithm)."""
    distance = points[:, axis] - limit if keep_above else limit - points[:, axis]
    following, distance_following = np.roll(points, -1, axis=0), np.roll(distance, -1)
    crosses = (distance < 0) != (distance_following < 0)
    with np.errstate(divide="ignore", invalid="ignore"):  # the values of edges that do not cross the line are not used
        crossings = points + (distance / (distance - distance_following))[:, None] * (following - points)
    in_turn = np.stack([points, crossings], axis=1).reshape(-1, 2)
    return in_turn[np.stack([distance >= 0, crosses], axis=1).reshape(-1)]


def _colour(rng: np.random.Generator, class_index: int, under: np.ndarray) -> np.ndarray:
    """A random colour around the typical hue of the class, with enough contrast to `under` (RGB in 0..255)."""
    while True:
        hue = (class_index / len(CLASSES) + rng.normal(0, _HUE_SPREAD)) % 1
        colour = 255 * np.array(hsv_to_rgb(hue, rng.uniform(0.35, 0.9), rng.uniform(0.35, 0.95)))
        if np.linalg.norm(colour - under) >= _CONTRAST:
            return colour


def _shading(rng: np.random.Generator, colour: np.ndarray, size: int) -> np.ndarray:
    """The colour with a brightness gradient and, on some shapes, stripes: float [size, size, 3]."""
    light = rng.uniform(10, 40) * _waves(rng, size, wavelength=(1.5, 3.0))
    stripes = rng.choice([0.0, 8.0]) * _waves(rng, size, wavelength=(0.04, 0.1))
    return colour + (light + stripes)[..., None]


def _ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """Background, float [size, size, 3]: one colour with coarse to fine noise and stripes."""
    ground = np.ones((size, size, 3)) * rng.uniform(40, 215, size=3)
    for cells, strength in ((3, 26), (8, 12), (24, 6)):
        ground += strength * _clouds(rng, size, cells)[..., None]  # lightness
    for channel in range(3):
        ground[..., channel] += 14 * _clouds(rng, size, 5)  # hue
    return ground + (rng.uniform(0, 8) * _waves(rng, size, wavelength=(0.03, 0.2)))[..., None]


def _clouds(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    noise = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
    return np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)


def _waves(rng: np.random.Generator, size: int, wavelength: tuple[float, float]) -> np.ndarray:
    """A plane wave in [-1, 1] of random direction and phase; wavelength as a fraction of the image's side."""
    angle, phase = rng.uniform(0, 2 * pi, size=2)
    steps = 2 * pi * np.arange(size) / size / rng.uniform(*wavelength)
    x, y = steps * cos(angle) + phase, steps * sin(angle)
    # The addition theorem needs sines of one row and one column only, which is much faster than one per pixel.
    return np.outer(np.cos(y), np.sin(x)) + np.outer(np.sin(y), np.cos(x))
