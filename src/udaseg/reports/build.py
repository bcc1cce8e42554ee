"""Builds a study's report from its run folders: tables, figures and one self-contained page."""

from pathlib import Path

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.figures.contents import all_figures
from udaseg.reports.figures.qualitative import qualitative
from udaseg.reports.figures.style import render
from udaseg.reports.figures.translations import contact_sheet
from udaseg.reports.page import page
from udaseg.reports.read.report import Report
from udaseg.reports.read.run_folders import read_report
from udaseg.reports.tables import writers
from udaseg.reports.tables.contents import all_tables
from udaseg.runs.files import write_bytes, write_text

LARGEST_SVG = 300_000  # bytes: a larger drawing is a picture inside the page, too
PAGE_DPI = 110  # of pictures inside the page, which keeps it small; the files beside it have 150


def build_report(spec_path: Path, exact: Path | None = None) -> Report:
    """Write `tables/`, `figures/` and `index.html` into the spec's output folder; every file is written atomically.

    The same spec and run folders give the same bytes. Figures of an earlier report that no longer exist are removed.

    Args:
        spec_path: of the report, written by the plan.
        exact: folder to write to instead of the spec's. Costs and machines are left out, so that equal results give
            equal bytes.

    Returns:
        The report that was written.

    Raises:
        UserError: the spec or a finished run's folder cannot be read; missing runs are footnotes, not errors.
    """
    report = read_report(spec_path, measured=exact is None)
    comparisons = Comparisons(report)
    output = exact or report.output
    written = set()
    made = all_tables(comparisons)
    for table in made:
        texts = {"csv": writers.to_csv(table), "md": writers.to_markdown(table), "tex": writers.to_latex(table)}
        for kind, text in texts.items():
            path = output / "tables" / f"{table.name}.{kind}"
            write_text(path, text)
            written.add(path)
    drawn = all_figures(comparisons)
    photographs = {"translations": contact_sheet(report), "qualitative": qualitative(report)}
    drawn |= {name: figure for name, figure in photographs.items() if figure is not None}
    shown = {}
    for name, (caption, figure) in drawn.items():
        files = render(figure)
        for kind, content in files.items():
            path = output / "figures" / f"{name}.{kind}"
            write_bytes(path, content)
            written.add(path)
        if name in photographs or len(files["svg"]) > LARGEST_SVG:
            shown[name] = page.Picture(name, caption, "image/png", render(figure, PAGE_DPI)["png"])
        else:
            shown[name] = page.Picture(name, caption, "image/svg+xml", files["svg"])
    for kind in ("tables", "figures"):
        for path in (output / kind).glob("*"):
            if path not in written:
                path.unlink()
    write_text(output / "index.html", page.render(report, made, shown))
    return report
