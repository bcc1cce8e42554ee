"""How the two domains of Toytown differ: every number that sets the size of the domain gap is in this file.

Pairs are (low, high) of a uniform draw per image unless said otherwise. Colours are hexadecimal sRGB.
"""

import colorsys
import random
from dataclasses import dataclass, replace

from udaseg.data.datasets.toytown.patches import Colour
from udaseg.seeding import seed_for

Range = tuple[float, float]
Palette = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class DomainLook:
    # --- viewpoint
    camera_height: Range  # metres above the road
    field_of_view: Range  # horizontal, degrees
    horizon: Range  # height of the horizon in the picture, fraction from the top: the camera's pitch
    yaw: float  # sigma of the vanishing point's sideways shift, fraction of the width
    roll: float  # sigma of the camera's roll, degrees
    # --- how often things occur (a mean number per image, or a probability)
    building: float  # share of the lots along the street that are built on; the others are open ground behind a border
    lot_border: tuple[float, float, float, float]  # weights of wall, fence, hedge, nothing in front of open ground
    storeys: tuple[int, int]  # of a building
    trees: float  # mean number of street trees on each side
    parked: float  # probability that a place at the kerb is taken by a car
    driving: float  # mean number of driving cars
    bus: float  # probability of a bus
    people: float  # mean number of people on foot
    riders: float  # mean number of riders
    bicycles: float  # mean number of parked bicycles
    signs: float  # mean number of traffic signs on each side
    lights: float  # probability of traffic lights where there is a junction; half as often elsewhere
    lamps: float  # probability that a lamp's place is taken
    junction: float  # probability of a crossing street
    # --- light
    sun: Range  # strength of direct light: contrast between lit and unlit faces
    ambient: float  # light of a face turned away from the sun
    shadow: Range  # darkness of cast shadows on the ground, 0 none … 1 black
    shadow_blur: float  # softness of shadows, pixels at a width of 384
    haze: Range  # extinction per metre: how fast things fade into the haze colour with distance
    clouds: Range  # share of the sky covered, 0…1
    # --- surfaces
    texture: float  # strength of irregular texture (grain, stains, leaves)
    pattern: float  # strength of regular texture (bricks, slabs)
    # --- camera
    exposure: Range  # factor on all light
    warmth: Range  # white balance: red × (1 + w), blue × (1 - w)
    tint: Range  # green × (1 + t)
    saturation: Range  # 1 keeps colours, 0 is grey
    contrast: Range  # slope of the tone curve about mid grey
    veil: Range  # stray light that lifts black, fraction of white
    vignette: Range  # darkening of the corners
    blur: Range  # sigma of the lens blur, pixels at a width of 384
    noise: Range  # sigma of the sensor noise at mid grey, fraction of white
    palette: Palette  # material → its colours, drawn with equal probability


SOURCE = DomainLook(
    camera_height=(1.9, 2.5),
    field_of_view=(62.0, 72.0),
    horizon=(0.40, 0.48),
    yaw=0.05,
    roll=0.0,
    building=0.66,
    lot_border=(0.3, 0.3, 0.2, 0.2),
    storeys=(2, 6),
    trees=1.6,
    parked=0.45,
    driving=1.8,
    bus=0.25,
    people=3.0,
    riders=0.7,
    bicycles=0.8,
    signs=1.2,
    lights=0.8,
    lamps=0.7,
    junction=0.4,
    sun=(0.30, 0.42),
    ambient=0.66,
    shadow=(0.35, 0.45),
    shadow_blur=0.0,
    haze=(0.0, 0.002),
    clouds=(0.1, 0.4),
    texture=0.02,
    pattern=0.06,
    exposure=(0.92, 1.08),
    warmth=(-0.04, 0.05),
    tint=(-0.01, 0.01),
    saturation=(0.9, 1.1),
    contrast=(1.0, 1.05),
    veil=(0.0, 0.01),
    vignette=(0.0, 0.0),
    blur=(0.0, 0.0),
    noise=(0.0, 0.0),
    palette={
        "road": ("#6b6b75", "#63656f", "#70707a"),
        "marking": ("#f2f2ee",),
        "sidewalk": ("#b9b2a6", "#c2bcae", "#b0aca8"),
        "terrain": ("#86c24a", "#7ab83f", "#93c95b"),
        "facade": ("#e08a5a", "#d9b36c", "#c9614f", "#e6d3a8", "#7fa8c9", "#d98fa0", "#b98a6a", "#9fc2b0"),
        "roof": ("#9c3f35", "#7d4a3a", "#5a5f73"),
        "door": ("#5a3423", "#2f5a3a", "#7a2430"),
        "awning": ("#d8343a", "#2f7fd0", "#2fa05a", "#f0b429"),
        "wall": ("#c9a27a", "#bf8f6b", "#d4b48e"),
        "fence": ("#8a5a33", "#a06c3e", "#f0ede4"),
        "pole": ("#8f959e", "#7d848f", "#a3a8ae"),
        "sign": ("#e02020", "#e02020", "#1f62d8", "#f2c21a"),
        "board": ("#168a4a", "#1f62d8"),
        "leaves": ("#3fa535", "#57b33b", "#2f8f3a", "#6fbf3f"),
        "bark": ("#7a5230", "#6a4528"),
        "sky_top": ("#3f8fe8", "#4a9af0"),
        "sky_low": ("#a9d4f7", "#b8dcf8"),
        "cloud": ("#ffffff",),
        "clothes": ("#e23b3b", "#2f6fe0", "#f0c419", "#3cab5a", "#a347c2", "#f28c28", "#20242c", "#f2f2f2"),
        "trousers": ("#27408b", "#3a3a42", "#6a5a48", "#20242c"),
        "skin": ("#f2c49b", "#d99f73", "#8a5a3c"),
        "hair": ("#2b1d14", "#6b4423", "#d9b25a"),
        "car": ("#d92027", "#1f5fd0", "#f2c21a", "#f2f2f2", "#2aa35a", "#2b2d33", "#e87722", "#8fa3b8"),
        "bus": ("#e8b71a", "#d92027", "#2f8f5a"),
        "bicycle": ("#d92027", "#1f62d8", "#20a060", "#f2c21a"),
    },
)

TARGET = DomainLook(
    camera_height=(1.25, 1.6),
    field_of_view=(58.0, 68.0),
    horizon=(0.34, 0.44),
    yaw=0.05,
    roll=1.2,
    building=0.66,
    lot_border=(0.25, 0.4, 0.15, 0.2),
    storeys=(2, 5),
    trees=2.6,
    parked=0.45,
    driving=1.8,
    bus=0.22,
    people=4.5,
    riders=1.1,
    bicycles=1.4,
    signs=1.5,
    lights=0.75,
    lamps=0.5,
    junction=0.35,
    sun=(0.05, 0.5),
    ambient=0.6,
    shadow=(0.15, 0.65),
    shadow_blur=2.0,
    haze=(0.003, 0.015),
    clouds=(0.4, 1.0),
    texture=0.17,
    pattern=0.08,
    exposure=(0.7, 1.2),
    warmth=(-0.15, 0.18),
    tint=(-0.02, 0.07),
    saturation=(0.55, 0.9),
    contrast=(0.9, 1.15),
    veil=(0.01, 0.05),
    vignette=(0.15, 0.45),
    blur=(0.3, 0.8),
    noise=(0.015, 0.045),
    palette={
        "road": ("#555557", "#5b5a5c", "#515359", "#62605f"),
        "marking": ("#d6d4cb", "#cdcac0"),
        "sidewalk": ("#96928c", "#a19788", "#8e8d8e"),
        "terrain": ("#869d4e", "#7a954b", "#91a054"),
        "facade": ("#a0775d", "#af957c", "#93644e", "#cdc2a7", "#9a826e", "#a88a6a", "#82908b", "#b59477"),
        "roof": ("#684439", "#50525c", "#725447"),
        "door": ("#472e21", "#2d4736", "#3f5045"),
        "awning": ("#a03836", "#397664", "#52805a", "#668954"),
        "wall": ("#a99881", "#9f8e7a", "#b19a81"),
        "fence": ("#66503c", "#70563e", "#5b4d3b"),
        "pole": ("#6a7073", "#757a7c", "#616669"),
        "sign": ("#c32c2a", "#c32c2a", "#295aae", "#d9ae2d"),
        "board": ("#2c774f", "#295aae"),
        "leaves": ("#3f6f32", "#4a7636", "#376732", "#769238", "#6c8536"),
        "bark": ("#574230", "#4e3b2c"),
        "sky_top": ("#7da8d6", "#8cb0d6", "#73a2d6"),
        "sky_low": ("#cbdbe5", "#d1dde1", "#c5d7e4"),
        "cloud": ("#f0efec", "#e2e2e3"),
        "clothes": ("#272a32", "#393e49", "#4c443f", "#562e31", "#303b36", "#605e5a", "#d6d3cc", "#2c3a51"),
        "trousers": ("#262b36", "#3a3a3e", "#605548", "#22252b"),
        "skin": ("#cf9d7b", "#9c6d4f", "#77503b"),
        "hair": ("#271c16", "#3e2d20", "#7e6143"),
        "car": ("#2a2c31", "#8e98a2", "#d9dad9", "#3f4248", "#2d384c", "#512b2e", "#cdccc6", "#343e3d"),
        "bus": ("#cba631", "#aa302f", "#88ae92"),
        "bicycle": ("#275c44", "#8d2c2c", "#336f60", "#4c8166"),
    },
)

LOOKS = {"source": SOURCE, "target": TARGET}
WORLD_RATES = ("trees", "driving", "people", "riders", "bicycles", "signs")  # these vary between worlds
WORLD_HUE, WORLD_VALUE, WORLD_RATE = 0.012, 0.05, 0.12  # sigmas: of hue (turns), of brightness and of rates (relative)


def look_of(domain: str, world: int) -> DomainLook:
    """The look of a domain in one world: its palette and rates vary a little, none of the numbers of the gap do."""
    draw = random.Random(seed_for(world, f"toytown.{domain}.look"))
    look = LOOKS[domain]
    rates = {name: getattr(look, name) * max(0.5, draw.gauss(1.0, WORLD_RATE)) for name in WORLD_RATES}
    palette = {name: tuple(_vary(colour, draw) for colour in colours) for name, colours in look.palette.items()}
    return replace(look, palette=palette, **rates)


def parse(colour: str) -> Colour:
    return int(colour[1:3], 16) / 255, int(colour[3:5], 16) / 255, int(colour[5:7], 16) / 255


def _vary(colour: str, draw: random.Random) -> str:
    hue, saturation, value = colorsys.rgb_to_hsv(*parse(colour))
    hue = (hue + draw.gauss(0.0, WORLD_HUE)) % 1.0
    value = min(1.0, max(0.0, value * draw.gauss(1.0, WORLD_VALUE)))
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
