"""The page of a fabricated study in a Chromium: it works, loads nothing from elsewhere, and fits a phone."""

from typing import Any

import pytest
from matplotlib.figure import Figure
from support.browser import Visit, visit
from support.fabricate import fabricate

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.figures.style import render
from udaseg.reports.page import page
from udaseg.reports.read.run_folders import read_report
from udaseg.reports.tables.contents import all_tables

pytestmark = pytest.mark.slow
PHONE = (390, 844)
LOADED = "images => images.map(image => [image.complete && image.naturalWidth > 0, image.alt])"
COLUMN = "(rows, column) => rows.map(row => row.cells[column].innerText.split('\\n')[0])"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a study with sweeps, a grouped table, a method that has no run, and figures."""
    root = tmp_path_factory.mktemp("browser")
    recipes = ("source_only", "dann", "cbst", "plca_aggregated", "oracle")
    spec = fabricate(root, recipes, seeds=(0, 1), iterations=40, pictures=2, sweeps=("grid",))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        report = read_report(spec)
        drawn = {name: draw(name) for name in ("miou", "ablation_grid", "cost")}
        path = root / "index.html"
        path.write_text(page.render(report, all_tables(Comparisons(report)), drawn))
    return path.as_uri()


def draw(name: str) -> page.Picture:
    figure = Figure(figsize=(7, 3))
    figure.subplots().plot([0, 1], [0, 1])
    return page.Picture(name, f"Of {name}.", "image/svg+xml", render(figure)["svg"])


def column(watched: Visit, table: str, index: int) -> Any:
    return watched.page.locator(f"#{table}-table tbody tr:not(.group)").evaluate_all(COLUMN, index)


def value(text: str) -> float:
    return float(text.split()[0].replace("−", "-"))


def test_every_image_loads_and_nothing_is_asked_for(address: str) -> None:
    with visit(address) as watched:
        found = watched.page.locator("img").evaluate_all(LOADED)
        assert len(found) == 3 + 2 * (2 + 5) + 2
        assert [alt for loaded, alt in found if not loaded] == []
        assert watched.requests == [address]


def test_numbers_sort_as_numbers_dashes_last_and_a_third_click_restores(address: str) -> None:
    with visit(address) as watched:
        header = watched.page.locator("#main-table thead th").all_inner_texts()
        index = next(i for i, name in enumerate(header) if name.startswith("Difference"))
        head = watched.page.locator("#main-table thead th").nth(index)
        given = column(watched, "main", index)
        present = [text for text in given if text != "–"]
        assert 1 < len(present) < len(given)
        assert head.get_attribute("aria-sort") == "none"
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == "ascending"
        dashes = ["–"] * (len(given) - len(present))
        assert column(watched, "main", index) == sorted(present, key=value) + dashes
        head.locator("button").press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        assert column(watched, "main", index) == sorted(present, key=value, reverse=True) + dashes
        head.locator("button").press("Enter")
        assert head.get_attribute("aria-sort") == "none"
        assert column(watched, "main", index) == given


def test_order_is_of_numbers_not_of_letters(address: str) -> None:
    with visit(address) as watched:
        heads = watched.page.locator("#cost-table thead th")
        index = next(i for i, name in enumerate(heads.all_inner_texts()) if name.startswith("Iterations"))
        assert column(watched, "cost", index) != sorted(column(watched, "cost", index), key=value)
        heads.nth(index).locator("button").click()
        shown = [value(text) for text in column(watched, "cost", index)]
        assert shown == sorted(shown) and {40.0, 160.0} <= set(shown)


def test_a_grouped_table_sorts_within_its_groups(address: str) -> None:
    bodies = "bodies => bodies.map(body => [...body.rows].map(row => row.innerText.split('\\t')[0].trim()))"
    with visit(address) as watched:
        groups = watched.page.locator("#stages-table tbody")
        before = groups.evaluate_all(bodies)
        watched.page.locator("#stages-table thead button").first.click()
        watched.page.locator("#stages-table thead button").first.click()
        after = groups.evaluate_all(bodies)
        assert [group[0] for group in after] == [group[0] for group in before]  # the headings
        assert [group[1:] for group in after] == [sorted(group[1:], reverse=True) for group in before]
        assert after != before


def test_the_slider_moves_the_edge_by_hand_and_by_key(address: str) -> None:
    with visit(address) as watched:
        slider = watched.page.locator("#compare-at")
        left = watched.page.locator(".stage img.left")

        def hidden() -> float:
            """The share of the left picture that is clipped, in percent."""
            clip = left.evaluate("image => getComputedStyle(image).clipPath")
            return (
                float(clip.split("calc(")[-1].split("%")[0]) if "calc" in clip else float(clip.split()[1].rstrip("%"))
            )

        assert hidden() == 50
        slider.focus()
        slider.press("ArrowRight")
        assert hidden() == 49.5
        slider.press("Home")
        assert hidden() == 100
        box = slider.bounding_box()
        assert box is not None
        watched.page.mouse.click(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2)
        assert hidden() == pytest.approx(20, abs=1)


def test_the_choice_of_method_and_image_changes_the_pictures(address: str) -> None:
    with visit(address) as watched:
        sources = "images => images.map(image => image.src)"
        shown = watched.page.locator(".stage img")
        before = shown.evaluate_all(sources)
        watched.page.select_option("#compare-left", "Oracle")
        after = shown.evaluate_all(sources)
        assert after[0] == before[0] and after[1] != before[1]
        oracle = watched.page.locator('#gallery img[data-title="Oracle"]').evaluate_all(sources)
        assert after[1] == oracle[0]
        watched.page.select_option("#compare-image", "target_001")
        assert shown.evaluate_all(sources)[1] == oracle[1]
        assert watched.page.locator(".stage .name.left").inner_text() == "Oracle"


def test_the_filter_of_runs_filters(address: str) -> None:
    with visit(address) as watched:
        listed = watched.page.locator("details.run")
        rows = watched.page.locator("#runs-table tbody tr")
        total = listed.count()
        assert not listed.first.is_visible()  # behind one line until it is wanted
        watched.page.locator("#runs-table thead button").first.click()  # also of a table that is sorted
        watched.page.fill("#run-filter", "dann SEED=1")
        visible = [entry for entry in listed.all() if entry.is_visible()]
        assert 0 < len(visible) < total
        assert all("/dann/seed=1" in str(entry.text_content()) for entry in visible)
        left = [row.locator("td").all_inner_texts() for row in rows.all() if row.is_visible()]
        assert len(left) == len(visible) and {cells[2] for cells in left} == {"1"}
        titles = {str(entry.locator("summary").text_content()) for entry in visible}
        assert {f"{cells[0]} main, seed 1" for cells in left} == titles
        assert watched.page.locator("#run-count").inner_text() == f"{len(visible)} of {total}"
        watched.page.fill("#run-filter", "")
        assert all(entry.is_visible() for entry in listed.all())


def test_a_phone_has_a_menu_and_nothing_overflows(address: str) -> None:
    with visit(address, size=PHONE, touch=True) as watched:
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
        menu, link = watched.page.locator("#menu"), watched.page.locator('#contents a[href="#cost"]')
        assert menu.is_visible() and not link.is_visible()
        menu.tap()
        assert link.is_visible() and menu.get_attribute("aria-expanded") == "true"
        link.tap()
        assert not link.is_visible()
        top = watched.page.locator("#cost h2").bounding_box()
        bar = menu.bounding_box()
        assert top is not None and bar is not None
        assert bar["y"] + bar["height"] <= top["y"] < PHONE[1]  # below the bar, which stays
        watched.page.locator("#made > summary").tap()
        watched.page.locator("details.run > summary").first.tap()
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]


def test_a_laptop_has_the_navigation_beside_the_text(address: str) -> None:
    with visit(address) as watched:
        link = watched.page.locator('#contents a[href="#runs"]')
        assert not watched.page.locator("#menu").is_visible()
        link.click()
        assert link.is_visible()  # still, at the page's end
        assert watched.page.locator("#contents a[aria-current]").count() <= 1


@pytest.mark.parametrize("size", [(1280, 900), PHONE])
def test_without_scripts_all_is_there(address: str, size: tuple[int, int]) -> None:
    with visit(address, size=size, javascript=False) as watched:
        assert not watched.page.locator("#compare").is_visible()
        assert all(image.is_visible() for image in watched.page.locator("#gallery img").all())
        assert all(table.is_visible() for table in watched.page.locator("table").all())
        assert watched.page.locator('#contents a[href="#cost"]').is_visible()
        assert not watched.page.locator("#run-filter").is_visible()
        watched.page.locator("#made > summary").click()
        assert watched.page.locator("details.run").first.is_visible()


def test_print_has_all_but_the_controls(address: str) -> None:
    with visit(address) as watched:
        watched.page.emulate_media(media="print")
        assert not watched.page.locator("nav").is_visible() and not watched.page.locator("#compare").is_visible()
        assert watched.page.locator("#gallery img").first.is_visible()
        assert watched.page.locator("details.run pre").first.is_visible()
