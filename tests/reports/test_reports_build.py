"""The report as a whole: what it writes, that it is always the same, and that the page needs nothing but itself."""

import base64
import html.parser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from support.fabricate import fabricate

from udaseg.reports.build import build_report
from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.figures.contents import all_figures
from udaseg.reports.figures.qualitative import scenes
from udaseg.reports.figures.style import method_styles
from udaseg.reports.page import page
from udaseg.reports.read.history import history_frame
from udaseg.reports.read.run_folders import read_report
from udaseg.reports.tables.contents import all_tables


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def built(finished: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a study whose report is built."""
    root = tmp_path_factory.mktemp("built") / "root"
    shutil.copytree(finished[0], root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        build_report(finished[1])
    return root


class Reader(html.parser.HTMLParser):
    """Collects tags with their attributes, and checks that tags close in order."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read_page(root: Path) -> tuple[str, Reader]:
    text = (root / "reports/demo/index.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return text, reader


def test_every_file_is_written(built: Path) -> None:
    names = set(all_bytes(built / "reports/demo"))
    tables = {"main", "classes", "cost", "runs", "published_gta5_cityscapes", "published_synthia_cityscapes"}
    figures = {"miou", "classes", "confusion", "cost", "monitor", "losses", "diagnostics", "qualitative"}
    assert names == {
        "index.html",
        *(f"tables/{name}.{kind}" for name in tables for kind in ("csv", "md", "tex")),
        *(f"figures/{name}.{kind}" for name in figures for kind in ("svg", "png")),
    }


def test_same_runs_give_the_same_bytes(built: Path, study: Path) -> None:
    stale = Path("reports/demo/figures/stale.png")
    stale.parent.mkdir(parents=True)
    stale.touch()
    build_report(study)
    assert all_bytes(Path("reports/demo")) == all_bytes(built / "reports/demo")


def test_figures_hold_no_date_and_no_program_version(built: Path) -> None:
    for path in (built / "reports/demo/figures").glob("*.svg"):
        assert "dc:date" not in path.read_text() and "atplotlib v" not in path.read_text()
    for path in (built / "reports/demo/figures").glob("*.png"):
        with Image.open(path) as image:
            assert not set(image.info) & {"Software", "Creation Time"}


def test_the_page_loads_nothing(built: Path) -> None:
    text, reader = read_page(built)
    assert len(text) < 5_000_000
    assert re.search(r"https?:", text) is None
    assert re.search(r"@import|url\(", text) is None
    assert not {tag for tag, _ in reader.tags} & {"link", "iframe", "object", "embed"}
    assert [attributes for tag, attributes in reader.tags if tag == "script"] == [{}]  # the one that is inside it
    images = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert len(images) == len(list((built / "reports/demo/figures").glob("*.svg"))) + 3 * 6  # and those to compare
    for attributes in images:
        media, content = re.fullmatch(r"data:(image/[a-z+]+);base64,(.*)", str(attributes["src"])).groups()  # type: ignore[union-attr]
        assert base64.b64decode(content, validate=True).startswith(b"<?xml" if media == "image/svg+xml" else b"\x89PNG")
        assert attributes["alt"]
    targets = {str(attributes["href"])[1:] for tag, attributes in reader.tags if tag == "a"}
    assert targets <= {attributes.get("id") for _, attributes in reader.tags}


def test_the_page_tells_how_each_run_was_made(built: Path) -> None:
    _, reader = read_page(built)
    for entry in yaml.safe_load((built / "state/specs/report-demo-12345678.yaml").read_text())["runs"]:
        assert f"udaseg train {entry['run']}/spec.yaml" in reader.text
        assert f"udaseg evaluate {entry['evaluation']}/spec.yaml" in reader.text
    for fact in ("0123456789abcdef", "2.15.0", "s" * 64, "t" * 64, "Protocol: toytown_target", "5" * 64):
        assert fact in reader.text
    assert "somewhere" not in reader.text  # the machine's name
    assert "pretrained weights of the small network play the part of ImageNet weights" in reader.text
    assert "results/objects/source_only/seed=0-0000000000" in reader.text


def test_the_page_names_classes_that_a_domain_lacks(built: Path) -> None:
    page, _ = read_page(built)
    assert page.count("Classes without a pixel in its training labels</dt><dd>train</dd>") == 2


def test_without_pretraining_no_word_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = fabricate(
        tmp_path, recipes=("source_only", "oracle"), seeds=(0,), iterations=100, pictures=0, pretrain=False
    )
    monkeypatch.chdir(tmp_path)
    build_report(spec)
    _, reader = read_page(tmp_path)
    assert "ImageNet" not in reader.text
    assert not Path("reports/demo/figures/qualitative.png").exists()


def test_text_from_run_folders_is_escaped(study: Path) -> None:
    content = yaml.safe_load(study.read_text())
    for entry in content["runs"]:
        entry["title"] = "<script>alert(1)</script>"
    study.write_text(yaml.safe_dump(content))
    report = read_report(study)
    reader = Reader()
    reader.feed(page.render(report, all_tables(Comparisons(report)), {}))
    assert "alert(1)" in reader.text
    assert [tag for tag, _ in reader.tags].count("script") == 1  # the page's own


def test_missing_runs_leave_a_report_that_names_them(study: Path) -> None:
    shutil.rmtree("results/toytown_source-toytown_target/dann")
    report = read_report(study)
    reader = Reader()
    reader.feed(page.render(report, all_tables(Comparisons(report)), {}))
    assert all_figures(Comparisons(report))
    assert "3 of 12 runs have no result yet" in reader.text
    assert reader.text.count("dann, stage main, seed 1: has not been run") == 2  # under the results, under the runs
    shutil.rmtree("results")
    build_report(study)
    assert not Path("reports/demo/figures").exists()


def test_curves_are_the_histories(study: Path) -> None:
    frame = history_frame(read_report(study))
    own = frame[(frame["row"] == "dann") & (frame["seed"] == 1)]
    assert set(own["kind"]) == {"term", "log", "lr", "monitor", "iou"}
    assert list(own[(own["kind"] == "monitor")]["iteration"]) == [100, 200]
    assert set(own[own["kind"] == "term"]["name"]) == {"seg", "domain"}


def test_every_method_has_a_look_of_its_own(study: Path) -> None:
    styles = method_styles(read_report(study))
    assert len({tuple(sorted(style.items())) for style in styles.values()}) == len(styles)
    assert (styles["source_only"]["color"], styles["oracle"]["color"]) == ("#7a7a7a", "#000000")


def test_figures_hold_what_their_captions_say(study: Path) -> None:
    figures = all_figures(Comparisons(read_report(study)))
    assert list(figures) == ["miou", "classes", "confusion", "cost", "monitor", "losses", "diagnostics"]
    titles = [axes.get_title(loc="left") for axes in figures["losses"][1].axes]
    assert titles[:2] == ["Pretraining", "Source only"]
    labels = [text.get_text() for text in figures["miou"][1].axes[0].get_yticklabels()]
    assert labels == ["Source only", "DANN", "AdaptSegNet, multi-level", "Oracle"]


def test_pictures_stand_in_the_order_baseline_methods_oracle(study: Path) -> None:
    found = scenes(read_report(study), count=2)
    assert [scene.name for scene in found] == ["target_000", "target_001"]
    order = ["image", "ground truth", "Source only", "DANN", "AdaptSegNet, multi-level", "Oracle"]
    assert list(found[0].panels) == order
    assert all(panel.shape[2] == 3 for panel in found[0].panels.values())


def test_reports_load_neither_torch_nor_mlflow() -> None:
    code = (
        "import sys, udaseg.reports.build as b; "
        "print([name for name in ('torch', 'torchvision', 'mlflow', 'snakemake') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
