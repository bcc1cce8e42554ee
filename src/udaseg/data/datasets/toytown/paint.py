"""From patches in the street to a labelled picture: projection, painting, light, weather and the camera.

Everything that has an edge is drawn once, as numbers of patches, at twice the size. The picture is the patches'
colours averaged over 2 × 2 of those numbers, the label is the class of one of them, so the two cannot disagree.
"""

import math
import random
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from udaseg.data.datasets.toytown import patches as patch
from udaseg.data.datasets.toytown.look import DomainLook, parse
from udaseg.data.datasets.toytown.patches import Patches
from udaseg.seeding import seed_for

OVERSAMPLE = 2
SKY_DEPTH = 1000.0  # metres
TILE = 256  # texels
TEXELS_PER_METRE = 24.0
CLIP = 30000  # pixels: corners farther out than this are moved in
# Face → how squarely a sun on the upper left, behind the camera, shines on it.
SUN = {patch.GROUND: 0.75, patch.TOP: 0.8, patch.FACING_LEFT: 1.0, patch.FACING_RIGHT: 0.0, patch.FRONT: 0.45}


@dataclass(frozen=True)
class View:
    """A pinhole camera whose pitch and yaw are shifts of the image plane, so that upright things stay upright."""

    width: int
    height: int
    focal: float  # pixels
    centre_x: float  # vanishing point of the street, pixels
    horizon: float  # pixels from the top
    roll: float  # radians
    eye_x: float  # metres
    eye_y: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) in metres → (N, 2) in pixels."""
        depth = points[:, 2]
        x = self.centre_x + self.focal * (points[:, 0] - self.eye_x) / depth
        y = self.horizon - self.focal * (points[:, 1] - self.eye_y) / depth
        return np.stack(self.rotate(x, y, self.roll), axis=1)

    def rotate(self, x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
        dx, dy, cos, sin = x - self.width / 2, y - self.height / 2, math.cos(angle), math.sin(angle)
        return self.width / 2 + cos * dx - sin * dy, self.height / 2 + sin * dx + cos * dy


def paint(
    patches: Patches, look: DomainLook, world: int, size: tuple[int, int], draw: random.Random
) -> tuple[np.ndarray, np.ndarray]:
    """Picture (H, W, 3) uint8 and label (H, W) uint8, index in patches.NAMES."""
    view = _view(patches, look, size, draw)
    starts = np.cumsum([0, *map(len, patches.points)])
    corners = np.array([point for points in patches.points for point in points])
    numbers = _draw_numbers(corners, starts, view)
    seen = numbers[1::OVERSAMPLE, 1::OVERSAMPLE]
    label = np.array([patch.SKY, *patches.labels], dtype=np.uint8)[seen]

    faces = np.array([patch.FRONT, *patches.faces])
    table = np.clip(255 * _lit(patches, look, faces, draw), 0, 255).astype(np.uint8)
    picture = np.asarray(Image.fromarray(np.take(table, numbers, axis=0)).reduce(OVERSAMPLE), dtype=np.float32) / 255
    place = _places(corners, starts, faces, seen, view)
    picture = picture * _surface(patches, look, world, faces, seen, place, view, draw)[..., None]
    picture = _shadowed(picture, patches, look, label, view, draw)
    sky = np.asarray(Image.fromarray(np.uint8(255) * (numbers == 0)).reduce(OVERSAMPLE), dtype=np.float32) / 255
    picture = _air(picture, sky, look, world, place[2], view, draw)
    return _photograph(picture, look, draw), label


def _lit(patches: Patches, look: DomainLook, faces: np.ndarray, draw: random.Random) -> np.ndarray:
    """Colours (1 + patches, 3) of the sky (0, painted later) and of the patches in their light."""
    toward_sun = {**SUN}
    if patches.sun_side > 0:
        toward_sun[patch.FACING_LEFT], toward_sun[patch.FACING_RIGHT] = (
            SUN[patch.FACING_RIGHT],
            SUN[patch.FACING_LEFT],
        )
    light = look.ambient + draw.uniform(*look.sun) * np.array([toward_sun[face] for face in range(5)])
    return np.array([(0.0, 0.0, 0.0), *patches.colours]) * light[faces][:, None]


def _view(patches: Patches, look: DomainLook, size: tuple[int, int], draw: random.Random) -> View:
    height, width = size
    focal = width / 2 / math.tan(math.radians(draw.uniform(*look.field_of_view)) / 2)
    centre = width * (0.5 + max(-0.15, min(0.15, draw.gauss(0.0, look.yaw))))
    roll = math.radians(draw.gauss(0.0, look.roll))
    horizon = height * draw.uniform(*look.horizon)
    return View(width, height, focal, centre, horizon, roll, patches.eye_x, patches.eye_y)


def _draw_numbers(corners: np.ndarray, starts: np.ndarray, view: View) -> np.ndarray:
    """(2H, 2W) int32: 1 + the number of the patch that is seen, 0 for the sky. Patch k has corners starts[k]…"""
    flat = np.clip(OVERSAMPLE * view.project(corners), -CLIP, CLIP).ravel().tolist()
    image = Image.new("I", (OVERSAMPLE * view.width, OVERSAMPLE * view.height), 0)
    polygon = ImageDraw.Draw(image).polygon
    bounds = (2 * starts).tolist()
    for number, (start, end) in enumerate(pairwise(bounds), start=1):
        polygon(flat[start:end], fill=number)
    return np.asarray(image)


def _places(
    corners: np.ndarray, starts: np.ndarray, faces: np.ndarray, numbers: np.ndarray, view: View
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each pixel shows, in metres: x, y and depth, (H, W) float32 each; the sky is SKY_DEPTH away."""
    firsts = starts[:-1]
    middles = np.add.reduceat(corners, firsts) / np.diff(starts)[:, None]
    middles = np.vstack([(0.0, 0.0, SKY_DEPTH), middles])
    nearest = np.concatenate([[SKY_DEPTH], np.minimum.reduceat(corners[:, 2], firsts)])
    farthest = np.concatenate([[SKY_DEPTH], np.maximum.reduceat(corners[:, 2], firsts)])
    ground = faces == patch.GROUND
    upright = (faces == patch.FACING_LEFT) | (faces == patch.FACING_RIGHT)
    # On a plane 1 / depth is affine in the pixel: a x + b y + c.
    a = np.where(upright, 1 / (view.focal * np.where(upright, middles[:, 0] - view.eye_x, 1.0)), 0.0)
    b = np.where(ground, -1 / (view.focal * np.where(ground, middles[:, 1] - view.eye_y, 1.0)), 0.0)
    c = np.where(upright | ground, 0.0, 1 / middles[:, 2])
    rows, columns = np.mgrid[0 : view.height, 0 : view.width].astype(np.float32) + 0.5
    x, y = view.rotate(columns, rows, -view.roll)
    x, y = x - view.centre_x, y - view.horizon
    a, b, c = (np.asarray(part, dtype=np.float32)[numbers] for part in (a, b, c))
    inverse = a * x + b * y + c
    least, most = (np.asarray(1 / bound, dtype=np.float32)[numbers] for bound in (farthest, nearest))
    depth = 1 / np.clip(inverse, least, most)
    return view.eye_x + x * depth / view.focal, view.eye_y - y * depth / view.focal, depth


def _surface(
    patches: Patches, look: DomainLook, world: int, faces: np.ndarray, numbers: np.ndarray,
    place: tuple[np.ndarray, np.ndarray, np.ndarray], view: View, draw: random.Random,
) -> np.ndarray:  # fmt: skip
    """Factor (H, W) by which texture makes surfaces lighter and darker; it fades where texels are below a pixel."""
    x, y, depth = place
    face = faces[numbers]
    across = np.where((face == patch.FACING_LEFT) | (face == patch.FACING_RIGHT), depth, x)
    up = np.where(face == patch.GROUND, depth, y)
    texture = np.array([patch.PLAIN, *patches.textures], dtype=np.intp)[numbers]
    shift = draw.randrange(TILE), draw.randrange(TILE)
    u = (across * TEXELS_PER_METRE).astype(np.intp) + shift[0]
    v = (up * TEXELS_PER_METRE).astype(np.intp) + shift[1]
    strength = 1 / (1 + depth * (TEXELS_PER_METRE / view.focal / 3))
    tiles = _tiles(world, look.texture, look.pattern)
    return 1 + strength * tiles[texture, v % TILE, u % TILE]


@lru_cache(maxsize=8)
def _tiles(world: int, texture: float, pattern: float) -> np.ndarray:
    """Textures (7, TILE, TILE) float32 about 0 that repeat without a seam: irregular noise plus a regular pattern."""
    generator = np.random.default_rng(seed_for(world, "toytown.textures"))
    tiles = np.zeros((7, TILE, TILE), dtype=np.float32)
    # (irregular strength, slope of its spectrum: small is grainy, large is cloudy)
    roughness = {
        patch.PLAIN: (0.25, 1.6), patch.ASPHALT: (0.9, 1.0), patch.PAVING: (0.9, 1.1), patch.GRASS: (1.4, 0.8),
        patch.PLASTER: (0.8, 1.5), patch.BRICK: (0.9, 1.2), patch.LEAF: (2.2, 0.75),
    }  # fmt: skip
    for kind, (strength, slope) in roughness.items():
        tiles[kind] = texture * strength * noise(generator, TILE, slope)
    row, column = np.mgrid[0:TILE, 0:TILE]
    slabs = (row % 16 < 1) | (column % 16 < 1)
    bricks = (row % 8 < 1) | ((column + 8 * (row // 8 % 2)) % 16 < 1)
    tiles[patch.PAVING] += pattern * np.where(slabs, -2.0, 0.2)
    tiles[patch.BRICK] += pattern * np.where(bricks, -1.5, 0.3)
    return tiles


def noise(generator: np.random.Generator, size: int, slope: float) -> np.ndarray:
    """(size, size) float32 noise of mean 0 and deviation 1 with spectrum 1 / frequency^slope; its edges join."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(generator.standard_normal((size, size))) / frequency**slope
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, s=(size, size))
    return (field / field.std()).astype(np.float32)


def _shadowed(
    picture: np.ndarray, patches: Patches, look: DomainLook, label: np.ndarray, view: View, draw: random.Random
) -> np.ndarray:
    """Darkens the ground under things, and where buildings keep the sun off it."""
    mask = Image.new("L", (OVERSAMPLE * view.width, OVERSAMPLE * view.height), 0)
    polygon = ImageDraw.Draw(mask).polygon
    for points in patches.shadows:
        corners = OVERSAMPLE * view.project(np.asarray(points, dtype=np.float64))
        polygon(np.clip(corners, -CLIP, CLIP).ravel().tolist(), fill=255)
    mask = mask.reduce(OVERSAMPLE)
    if look.shadow_blur:
        mask = mask.filter(ImageFilter.GaussianBlur(look.shadow_blur * view.width / 384))
    darkness = draw.uniform(*look.shadow)
    on_ground = (label == patch.ROAD) | (label == patch.SIDEWALK) | (label == patch.TERRAIN)
    return picture * (1 - darkness / 255 * np.asarray(mask, dtype=np.float32) * on_ground)[..., None]


def _air(
    picture: np.ndarray, sky: np.ndarray, look: DomainLook, world: int, depth: np.ndarray, view: View,
    draw: random.Random,
) -> np.ndarray:  # fmt: skip
    """Lets what is far fade into the colour above the horizon, then adds the sky and its clouds.

    `sky` (H, W) is the share of each pixel that the sky takes, which is still black in `picture`.
    """
    low, top, cloud = (
        np.array(parse(draw.choice(look.palette[k])), np.float32) for k in ("sky_low", "sky_top", "cloud")
    )
    cover, shift, haze = draw.uniform(*look.clouds), draw.randrange(TILE), draw.uniform(*look.haze)
    fading = np.exp(-haze * depth)[..., None]
    picture = picture * fading + low * (1 - fading) * (1 - sky)[..., None]

    rows, columns = np.nonzero(sky)
    above = np.maximum(view.horizon - rows, 1.0) / view.height + 0.08  # 0.08 keeps clouds at the horizon finite
    heavens = low + (top - low) * np.clip((above - 0.08) / 0.4, 0, 1).astype(np.float32)[:, None]
    u = (18.0 * (columns - view.centre_x) / view.height / above).astype(np.intp) + shift
    v = (30.0 / above).astype(np.intp) + shift
    thickness = _clouds(world)[v % TILE, u % TILE]
    # The noise has deviation 1; a cover of 0.5 puts the edge at its mean.
    share = np.clip((thickness + 3.0 * (cover - 0.5)) * 0.9, 0, 1)[:, None]
    picture[rows, columns] += (heavens + (cloud - heavens) * share) * sky[rows, columns, None]
    return picture


@lru_cache(maxsize=8)
def _clouds(world: int) -> np.ndarray:
    return noise(np.random.default_rng(seed_for(world, "toytown.clouds")), TILE, 1.9)


def _photograph(picture: np.ndarray, look: DomainLook, draw: random.Random) -> np.ndarray:
    """Exposure, colour, tone, lens and sensor: (H, W, 3) float32, 0..1 → uint8."""
    height, width = picture.shape[:2]
    exposure, warmth, tint = draw.uniform(*look.exposure), draw.uniform(*look.warmth), draw.uniform(*look.tint)
    gains = exposure * np.array([1 + warmth, 1 + tint, 1 - warmth], dtype=np.float32)
    picture = picture * gains
    grey = (0.299 * picture[..., 0] + 0.587 * picture[..., 1] + 0.114 * picture[..., 2])[..., None]
    picture = grey + draw.uniform(*look.saturation) * (picture - grey)
    picture = 0.5 + draw.uniform(*look.contrast) * (picture - 0.5)
    veil, vignette = draw.uniform(*look.veil), draw.uniform(*look.vignette)
    if vignette:
        y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        squared = ((x * x + y * y) / 2).astype(np.float32)  # 1 in the corners; the light falls with its 1.5th power
        picture *= (1 - vignette * squared * np.sqrt(squared))[..., None]
    picture = np.clip(veil + (1 - veil) * picture, 0, 1)
    blur, sigma = draw.uniform(*look.blur), draw.uniform(*look.noise)
    if blur:
        sharp = Image.fromarray((255 * picture + 0.5).astype(np.uint8))
        picture = np.asarray(sharp.filter(ImageFilter.GaussianBlur(blur * width / 384)), dtype=np.float32) / 255
    if sigma:
        grain = np.random.default_rng(draw.getrandbits(63)).standard_normal(picture.shape, dtype=np.float32)
        picture = picture + sigma * np.sqrt(0.4 + 1.2 * picture) * grain  # shot noise: variance grows with light
    return (255 * np.clip(picture, 0, 1) + 0.5).astype(np.uint8)
