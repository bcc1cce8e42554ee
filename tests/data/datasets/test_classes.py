import numpy as np

from udaseg.data.datasets.classes import CAMVID, CITYSCAPES, colourise, palette
from udaseg.types import IGNORE


def test_published_lists_are_whole():
    assert len(CITYSCAPES) == 19 and next(iter(CITYSCAPES)) == "road" and next(reversed(CITYSCAPES)) == "bicycle"
    assert len(CAMVID) == 11 and next(iter(CAMVID)) == "sky"
    for table in (CITYSCAPES, CAMVID):
        assert len(set(table.values())) == len(table)


def test_palette_uses_the_list_that_knows_the_names():
    assert palette(list(CITYSCAPES)) == list(CITYSCAPES.values())
    assert palette(list(CAMVID)) == list(CAMVID.values())
    assert palette(["road", "sky", "traffic_light"]) == [CITYSCAPES[n] for n in ("road", "sky", "traffic_light")]


def test_unknown_names_get_distinct_colours_that_do_not_depend_on_the_order():
    names = ["disc", "square", "triangle", "road"]
    assert len(set(palette(names))) == 4
    assert (0, 0, 0) not in palette(names)
    assert palette(["road", "disc"])[1] == palette(["disc", "road"])[0]


def test_names_of_both_lists_never_share_a_colour():
    names = [*CITYSCAPES, "pavement", "tree", "sign_symbol", "pedestrian", "bicyclist"]
    assert len(set(palette(names))) == len(names)


def test_colourise_maps_labels_and_leaves_ignore_black():
    labels = np.array([[0, 1], [2, IGNORE]], dtype=np.uint8)
    picture = colourise(labels, ["road", "sky", "disc"])
    assert picture.shape == (2, 2, 3) and picture.dtype == np.uint8
    assert tuple(picture[0, 0]) == CITYSCAPES["road"]
    assert tuple(picture[0, 1]) == CITYSCAPES["sky"]
    assert tuple(picture[1, 1]) == (0, 0, 0)
