"""The contact sheet of the translators: what is on it, in which order, and what the reader learns of what is not."""

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from support.fabricate import SIZE

from udaseg.data.sets.images import write_png
from udaseg.reports.build import build_report
from udaseg.reports.figures.style import lay_out, render
from udaseg.reports.figures.translations import CAPTION, contact_sheet
from udaseg.reports.read.run_folders import read_report
from udaseg.runs.files import write_json, write_yaml
from udaseg.runs.folder import publish

PLACE = Path("results/toytown_source-toytown_target")
PICTURES = 2
LOOKS = {"source": 200, "target": 40}  # the red of all pixels


def translation(spec: Path, code: str, translator: str, red: int, run: str | None = None, share: float = 0.01) -> Path:
    """A finished translation, named in the report's spec; its pictures have this red. Returns its folder."""
    folder = PLACE / f"translation-{code}"
    build = PLACE / f"translation-{code}.build"
    build.mkdir(parents=True)
    for kind, value in (LOOKS | {"translated": red}).items():
        for index in range(PICTURES):
            picture = np.full((*SIZE, 3), index, dtype=np.uint8)
            picture[..., 0] = value
            write_png(build / f"{kind}-{index}.png", picture)
    knobs = {"translator": translator, "fourier_share": share}
    write_json(build / "translate.json", {"translator": translator, "knobs": knobs})
    write_yaml(build / "spec.yaml", {"kind": "translate", "translator": translator, "knobs": knobs, "run": run})
    publish(build, folder, str(folder), "translate")
    name(spec, translator, folder)
    return folder


def name(spec: Path, translator: str, folder: Path) -> None:
    content: dict[str, Any] = yaml.safe_load(spec.read_text())
    content["translations"].append({"translator": translator, "folder": str(folder)})
    spec.write_text(yaml.safe_dump(content, sort_keys=False))


def drawn(spec: Path) -> tuple[str, Figure]:
    found = contact_sheet(read_report(spec))
    assert found is not None
    return found


def titles(figure: Figure) -> list[str]:
    return [text.replace("\n", " ") for axes in figure.axes if (text := axes.get_title(loc="left"))]


def reds(figure: Figure) -> list[list[int]]:
    """The red of each panel, rows of columns."""
    found = [int(axes.get_images()[0].get_array()[0, 0, 0]) for axes in figure.axes]
    columns = len(titles(figure))
    return [found[start : start + columns] for start in range(0, len(found), columns)]


@pytest.fixture
def translated(study: Path) -> Path:
    """The spec of a study with three translations."""
    translation(study, "aa", "cyclegan", 60, run="results/a-b/cyclegan/seed=0-aa")
    translation(study, "bb", "lab", 80)
    translation(study, "cc", "fourier", 100)
    return study


def test_source_every_translator_in_the_specs_order_and_target_are_columns(translated: Path) -> None:
    caption, figure = drawn(translated)
    assert titles(figure) == ["source", "CycleGAN", "LAB statistics", "Fourier (FDA)", "target"]
    assert reds(figure) == [[200, 60, 80, 100, 40]] * PICTURES
    greens = [int(axes.get_images()[0].get_array()[0, 0, 1]) for axes in figure.axes]
    assert greens == [index for index in range(PICTURES) for _ in range(5)]
    assert caption == CAPTION


def test_it_is_a_figure_and_a_section_of_the_page_that_is_linked(translated: Path) -> None:
    build_report(translated)
    assert all(Path(f"reports/demo/figures/translations.{kind}").is_file() for kind in ("png", "svg"))
    text = Path("reports/demo/index.html").read_text()
    section = re.search(r'<section id="translations">(.*?)</section>', text, re.DOTALL)
    assert section and CAPTION in section[1] and '<a href="#translations">' in text
    media, content = re.findall(r'src="data:(image/[a-z+]+);base64,([^"]*)"', section[1])[0]
    assert media == "image/png" and base64.b64decode(content, validate=True).startswith(b"\x89PNG")
    with Image.open("reports/demo/figures/translations.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    for red in (200, 60, 80, 100, 40):  # each of them is seen, in a good part of the sheet
        assert (pixels == (red, 0, 0)).all(axis=2).mean() > 0.05


def test_one_that_is_not_whole_is_left_out_and_the_caption_says_so(translated: Path) -> None:
    (PLACE / "translation-bb" / "translated-1.png").write_bytes(b"changed")
    (PLACE / "translation-aa" / "run.json").unlink()
    name(translated, "identity", PLACE / "translation-dd")
    caption, figure = drawn(translated)
    assert titles(figure) == ["source", "Fourier (FDA)", "target"]
    assert reds(figure) == [[200, 100, 40]] * PICTURES
    assert caption == (
        f"{CAPTION} Left out, since not finished or changed since: CycleGAN ({PLACE}/translation-aa), "
        f"LAB statistics ({PLACE}/translation-bb), no translation ({PLACE}/translation-dd)."
    )


def test_without_a_finished_one_there_is_neither_figure_nor_section(study: Path) -> None:
    assert contact_sheet(read_report(study)) is None
    name(study, "lab", PLACE / "translation-bb")
    stale = Path("reports/demo/figures/translations.png")
    stale.parent.mkdir(parents=True)
    stale.touch()
    build_report(study)
    assert not list(Path("reports/demo/figures").glob("translations.*"))
    assert "translations" not in re.sub(r"base64,[^\"]*", "", Path("reports/demo/index.html").read_text())


def test_equal_inputs_give_equal_bytes(translated: Path) -> None:
    assert render(drawn(translated)[1]) == render(drawn(translated)[1])


def test_of_one_kind_they_are_told_apart(translated: Path) -> None:
    runs = yaml.safe_load(translated.read_text())["runs"]
    trained = {run["recipe"]: run["run"] for run in runs}
    translation(translated, "dd", "fourier", 110, share=0.05)
    translation(translated, "ee", "lab", 120)
    (PLACE / "translation-ee" / "run.json").unlink()  # only what is shown has to be told apart
    _, figure = drawn(translated)
    assert titles(figure) == [
        "source", "CycleGAN", "LAB statistics", "Fourier (FDA), 0.01", "Fourier (FDA), 0.05", "target"
    ]  # fmt: skip
    assert reds(figure)[0] == [200, 60, 80, 100, 110, 40]
    content = yaml.safe_load(translated.read_text())
    translated.write_text(yaml.safe_dump(content | {"translations": []}))
    translation(translated, "ff", "cyclegan", 130, run=trained["dann"])
    translation(translated, "gg", "cyclegan", 140, run=trained["adaptsegnet_multi"])
    assert titles(drawn(translated)[1]) == ["source", "CycleGAN, dann", "CycleGAN, adaptsegnet_multi", "target"]


def test_titles_stay_within_their_columns(translated: Path) -> None:
    for index, share in enumerate((0.02, 0.05, 0.09)):
        translation(translated, f"1{index}", "fourier", 110, share=share)
    _, figure = drawn(translated)
    lay_out(figure)
    FigureCanvasAgg(figure).draw()
    heads = [axes for axes in figure.axes if axes.get_title(loc="left")]
    boxes = [title_of(axes).get_window_extent() for axes in heads]
    assert len(heads) == 8
    assert all(box.x1 < following.get_window_extent().x0 for box, following in zip(boxes[:-1], heads[1:], strict=True))
    assert all(box.y1 <= figure.bbox.y1 for box in boxes) and boxes[-1].x1 <= figure.bbox.x1


def title_of(axes: Axes) -> Text:
    (text,) = (part for part in axes.findobj(Text) if part.get_text() and part.get_text() == axes.get_title(loc="left"))
    return text
