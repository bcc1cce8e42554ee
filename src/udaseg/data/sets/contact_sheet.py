"""The contact sheet of a prepared set: images beside their colourised labels, to look at before training."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from udaseg.data.datasets.classes import colourise, palette
from udaseg.data.sets.read import PreparedSet

PER_SPLIT = 4  # images shown, spread evenly over the split
WIDTH = 300  # pixels of one picture
GAP = 8
LINE = 22  # pixels of a line of text
UNLABELLED = (225, 225, 225)


def contact_sheet(prepared: PreparedSet) -> Image.Image:
    """An RGB picture: for every split a few images with their labels beside them (two pairs a row), under a line with
    the split, its number of images and the image's name; below everything the legend. Ignored pixels are black."""
    height = round(WIDTH * prepared.size[0] / prepared.size[1])
    cells = [(split, name) for split in prepared.splits for name in _spread(prepared.names(split))]
    columns = 2
    pair = (2 * WIDTH + 2 * GAP, height + LINE + GAP)
    rows = -(-len(cells) // columns)
    legend_columns = max(1, columns * pair[0] // 200)
    legend_rows = -(-(len(prepared.classes) + 1) // legend_columns)
    sheet = Image.new("RGB", (columns * pair[0] + GAP, rows * pair[1] + legend_rows * LINE + 2 * GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for index, (split, name) in enumerate(cells):
        left, top = GAP + index % columns * pair[0], GAP + index // columns * pair[1]
        draw.text((left, top), f"{split} ({len(prepared.names(split))}): {name}", fill="black", font=font)
        image = Image.fromarray(prepared.image(split, name)).resize((WIDTH, height), Image.Resampling.BICUBIC)
        sheet.paste(image, (left, top + LINE))
        sheet.paste(_label_picture(prepared, split, name, height), (left + WIDTH + GAP // 2, top + LINE))
    legend = [*zip(prepared.classes, palette(prepared.classes), strict=True), ("ignored", (0, 0, 0))]
    for index, (entry, colour) in enumerate(legend):
        left, top = GAP + index % legend_columns * 200, GAP + rows * pair[1] + index // legend_columns * LINE
        draw.rectangle((left, top + 2, left + 24, top + LINE - 4), fill=colour, outline="black")
        draw.text((left + 32, top), entry, fill="black", font=font)
    return sheet


def _spread(names: list[str]) -> list[str]:
    """Up to PER_SPLIT of the names, evenly spaced from the first to the last."""
    return [names[i] for i in np.unique(np.linspace(0, len(names) - 1, PER_SPLIT).round().astype(int))]


def _label_picture(prepared: PreparedSet, split: str, name: str, height: int) -> Image.Image:
    if not prepared.has_label(split, name):
        picture = Image.new("RGB", (WIDTH, height), UNLABELLED)
        ImageDraw.Draw(picture).text((GAP, GAP), "no labels", fill="black", font=ImageFont.load_default(14))
        return picture
    colours = colourise(prepared.label(split, name), prepared.classes)
    return Image.fromarray(colours).resize((WIDTH, height), Image.Resampling.NEAREST)
