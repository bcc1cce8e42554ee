"""The page's structure: what it shows, where, and that nothing of it comes from elsewhere."""

import base64
import dataclasses
import hashlib
import html.parser
import io
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from udaseg.data.datasets.classes import colourise
from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.figures.qualitative import class_colours, scenes
from udaseg.reports.page import page
from udaseg.reports.page.page import Picture, render
from udaseg.reports.page.pictures import LARGEST, compared_images, png
from udaseg.reports.page.sections import aside, grid, sections
from udaseg.reports.read.run_folders import read_report
from udaseg.reports.tables.contents import all_tables
from udaseg.reports.tables.table import DASH, Table

DRAWING = Picture("", "What it shows.", "image/svg+xml", b"<?xml version='1.0'?><svg/>")


class Structure(html.parser.HTMLParser):
    """Every element with its attributes, the text, and the text of each table by its id."""

    VOID = ("meta", "img", "br", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, str | None]] = []
        self.text = ""
        self.tables: dict[str, str] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append((tag, dict(attributes).get("id")))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1][0] in ("script", "style"):
            return
        self.text += data
        for tag, name in self.open:
            if tag == "table" and name is not None:
                self.tables[name] = self.tables.get(name, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.elements if "id" in attributes]


def invented(name: str, rows: list[list[str]], **more: object) -> Table:
    header = [f"c{index}" for index in range(len(rows[0]))]
    return dataclasses.replace(Table(name, f"{name}, invented", header, rows, pd.DataFrame()), **more)  # type: ignore[arg-type]


def test_every_table_and_figure_is_there_once_under_a_link(swept: Path) -> None:
    report = read_report(swept)
    tables = all_tables(Comparisons(report))
    names = {table.name for table in tables}
    wanted = ["ablation_grid", "claims", "fidelity", "published_a_b", "published_c_d", "of_another_kind"]
    tables += [invented(name, [["a", "1"]]) for name in wanted if name not in names]
    figures = ["miou", "ablation_grid", "confusion", "confusion_pairs", "cost", "losses", "of_another_kind"]
    structure = Structure(render(report, tables, dict.fromkeys(figures, DRAWING)))
    assert sorted(structure.tables) == sorted(f"{table.name}-table" for table in tables)
    assert len([image for image in structure.all("img") if image["src"] == DRAWING.uri]) == len(figures)
    anchors = [str(link["href"]) for link in structure.all("a")]
    assert len(anchors) == len(set(anchors))
    assert {anchor[1:] for anchor in anchors} <= set(structure.ids())
    assert {"#claims", "#ablations", "#fidelity", "#published", "#confusion", "#cost", "#more"} <= set(anchors)
    assert "#table-ablation_grid" in anchors and "#table-published_a_b" in anchors
    for table in tables:
        for text in {cell for row in table.rows for cell in row} - {""}:
            first = aside(text.split("; ")[0])[0]
            assert first in structure.tables[f"{table.name}-table"]


def test_ids_are_unique_and_images_are_inside(study: Path) -> None:
    report = read_report(study)
    structure = Structure(render(report, all_tables(Comparisons(report)), {"miou": DRAWING}))
    assert [name for name, count in Counter(structure.ids()).items() if count > 1] == []
    images = structure.all("img")
    assert len(images) == 1 + 3 * (2 + 4)
    assert all(str(image["src"]).startswith("data:image/") and image["alt"] for image in images)
    addressed = ("href", "src", "action", "data", "srcset", "poster")
    for tag, attributes in structure.elements:
        assert not [name for name in attributes if name.startswith("on")], "an inline event handler"
        for name in addressed:
            assert str(attributes.get(name, "#")).startswith(("#", "data:image/")), (tag, name)


def test_only_the_pages_own_script_may_run(study: Path) -> None:
    report = read_report(study)
    text = render(report, all_tables(Comparisons(report)), {})
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policies = [meta["content"] for meta in Structure(text).all("meta") if "http-equiv" in meta]
    assert len(policies) == 1 and policies[0] is not None
    rules = dict(rule.split(maxsplit=1) for rule in policies[0].split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert rules["script-src"] == f"'sha256-{digest}'"


def test_sections_without_content_are_left_out(study: Path) -> None:
    report = read_report(study)
    anchors = [section.anchor for section in sections(report, all_tables(Comparisons(report)), [])]
    absent = {"claims", "fidelity", "confusion", "pictures", "translations", "training", "more", "stages", "ablations"}
    assert not absent & set(anchors)
    assert anchors[0] == "results" and anchors[-1] == "runs" and "protocol" in anchors
    none = [section.anchor for section in sections(report, [], [])]
    assert none == ["protocol", "runs"]


def test_text_of_others_is_escaped_everywhere(study: Path) -> None:
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'"
    content = yaml.safe_load(study.read_text())
    for entry in content["runs"]:
        entry["title"] = hostile
    study.write_text(yaml.safe_dump(content))
    report = read_report(study)
    notes = [hostile, hostile * 5]
    extra = [invented(name, [[hostile, hostile]], title=hostile, notes=notes) for name in ("claims", "fidelity")]
    picture = Picture("cost", hostile, "image/png", b"")
    structure = Structure(render(report, all_tables(Comparisons(report)) + extra, {"cost": picture}))
    assert len(structure.all("script")) == 1
    assert not [image for image in structure.all("img") if not str(image["src"]).startswith("data:")]
    assert hostile in structure.tables["claims-table"] and hostile in structure.text


def test_columns_are_numbers_words_or_prose() -> None:
    rows = [
        [
            "b",
            "41.2 ± 0.8",
            "−1.0 [−2.0, +0.1] (n = 2 of 3)",
            DASH,
            "yes",
            "a text of many words that has to be wrapped",
        ],
        ["a", DASH, "+4.5 [+3.1, +5.9]; +0.1 [−1.0, +1.2]", "< 0.001", "3 no", DASH],
    ]
    shown = grid(invented("made", rows, best=frozenset({(0, 1)})))
    assert [kind for _, kind in shown.columns] == ["word", "number", "number", "number", "word", "prose"]
    (heading, (first, second)) = shown.bodies[0]
    assert heading == ""
    assert first[2].lines == [["−1.0", "[−2.0, +0.1]", "(n = 2 of 3)"]]
    assert second[2].lines == [["+4.5", "[+3.1, +5.9]"], ["+0.1", "[−1.0, +1.2]"]]
    assert [cell.best for cell in first] == [False, True, False, False, False, False]


def test_marks_are_where_the_whole_table_counts_them() -> None:
    rows = [["one", "a", "1"], ["one", "b", "2"], ["two", "c", "3"]]
    shown = grid(invented("claims", rows, grouped=True, best=frozenset({(2, 2)})))
    assert [heading for heading, _ in shown.bodies] == ["one", "two"]
    assert [[[cell.best for cell in row] for row in body] for _, body in shown.bodies] == [
        [[False, False], [False, False]],
        [[False, True]],
    ]


def test_a_verdict_has_a_sign_and_its_word(study: Path) -> None:
    words = ["reproduced", "not reproduced", "undecided (2 seeds)"]
    rows = [["paper", word] for word in words]
    report = read_report(study)
    text = render(report, [invented("claims", rows)], {})
    for sign, word in zip("✓✗?", words, strict=True):
        assert re.search(
            rf'<span class="sign [a-z-]+" aria-hidden="true">{re.escape(sign)}</span>\s*{re.escape(word)}<', text
        )
    assert 'class="sign' not in render(report, [invented("main", rows)], {})


def test_a_long_note_is_folded_where_an_earlier_table_has_it(study: Path) -> None:
    note = "Declared beforehand: " + "word " * 50
    tables = [invented(name, [["a", "1"]], notes=[note.strip(), "short"]) for name in ("cost", "main")]
    text = render(read_report(study), tables, {})
    assert text.count(f"<li>{note.strip()}</li>") == 1
    assert text.count(f"</summary>{note.strip()}</details>") == 1
    assert text.index(f"<li>{note.strip()}") < text.index(f"</summary>{note.strip()}")  # in the page's order
    assert text.count("<li>short</li>") == 2


def test_what_all_runs_share_is_said_once(study: Path) -> None:
    report = read_report(study)
    text = render(report, all_tables(Comparisons(report)), {})
    assert text.count("<dt>Version of torch</dt><dd>2.15.0</dd>") == 1
    runs = report.each_once()
    other = dataclasses.replace(runs[-1], env=runs[-1].env | {"versions": {"torch": "9.9", "numpy": "2.4.0"}})
    shared = page.shared_facts([*runs, other])
    assert "Version of torch" not in shared and shared["Version of numpy"] == "2.4.0"
    assert page.run_facts(report, other, shared)["facts"]["Version of torch"] == "9.9"
    missing = dataclasses.replace(runs[0], env={})
    assert page.shared_facts([missing, *runs[1:]]) == page.shared_facts(runs)
    assert page.shared_facts([missing]) == {}


def test_comparisons_show_the_labels_of_the_run_folders(study: Path) -> None:
    report = read_report(study)
    found = compared_images(report)
    assert [comparison.name for comparison in found] == ["target_000", "target_001", "target_002"]
    assert [panel.title for panel in found[0].panels][:3] == ["image", "ground truth", "Source only"]
    assert [panel.predicted for panel in found[0].panels] == [False, False, True, True, True, True]
    run = report.rows["dann"].final.runs[0]
    panel = next(panel for panel in found[1].panels if panel.title == "DANN")
    with Image.open(io.BytesIO(base64.b64decode(panel.uri.split(",")[1]))) as image:
        assert image.mode == "P"
        shown = np.asarray(image.convert("RGB"))
    with Image.open(run.evaluation / "pictures/target_001.png") as image:  # type: ignore[operator]
        assert (shown == colourise(np.asarray(image), report.classes)).all()
    assert (found[1].height, found[1].width) == shown.shape[:2]


def test_panels_are_small_and_have_few_colours() -> None:
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (300, 2 * LARGEST + 2, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(base64.b64decode(png(large).split(",")[1]))) as image:
        assert image.size == (LARGEST * 2 // 3 + 1, 100) and image.mode == "P"
    assert png(large) == png(large.copy())


def test_without_pictures_there_is_no_comparison(study: Path) -> None:
    for folder in Path("results").rglob("pictures"):
        shutil.rmtree(folder)
    report = read_report(study)
    assert scenes(report) == [] and compared_images(report) == []
    structure = Structure(render(report, all_tables(Comparisons(report)), {}))
    assert "pictures" not in structure.ids() and "compare" not in structure.ids()


def test_the_legend_names_every_class_and_what_is_ignored(study: Path) -> None:
    names, colours = zip(*class_colours(read_report(study).classes).items(), strict=True)
    assert names[:2] == ("road", "sidewalk") and "traffic sign" in names and names[-1] == "ignored"
    assert len(set(colours)) == len(colours) and all(re.fullmatch(r"#[0-9a-f]{6}", colour) for colour in colours)
