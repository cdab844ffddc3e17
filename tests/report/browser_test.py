"""The page in a real browser: it is drawn without errors, moves, and fits a phone."""

import pytest

from pcm3_jax.report import page
from tests.report.report_test import HOSTILE

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
figures = pytest.importorskip("pcm3_jax.report.figures", reason="needs pillow")
pytestmark = pytest.mark.skipif(figures.BROWSER is None, reason="needs Chromium")

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as program:
        browser = program.chromium.launch(executable_path=figures.BROWSER, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens contents in a window; errors and warnings of the page are in ``complaints``."""
    contexts = []

    def open_page(contents, viewport=DESKTOP, **options):
        path = tmp_path / "report.html"
        page.write(path, contents)
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        window = context.new_page()
        window.complaints = []
        window.on("console", lambda m: window.complaints.append(m.text))
        window.on("pageerror", lambda error: window.complaints.append(str(error)))
        window.on("request", lambda r: window.complaints.append(r.url) if "file" not in r.url
                  and not r.url.startswith("data:") else None)  # fmt: skip
        window.goto(f"file://{path}")
        window.wait_for_selector("#settings table")
        return window

    yield open_page
    for context in contexts:
        context.close()


def pixels(window, selector):
    """The picture of a canvas, after it came into view."""
    canvas = window.locator(selector).first
    canvas.scroll_into_view_if_needed()
    window.wait_for_timeout(400)
    return canvas.evaluate("canvas => canvas.toDataURL()")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_part_is_drawn_without_complaints(opened, report_contents, viewport, scheme):
    window = opened(report_contents, viewport, color_scheme=scheme)
    parts = window.eval_on_selector_all("main section", "all => all.map(one => one.id)")
    assert parts == [
        "learning", "results", "confusions", "map", "neighbours", "masked", "views", "speed",
        "settings", "provenance",
    ]  # fmt: skip
    assert window.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    assert window.locator("#learning svg path").count() > 5
    assert window.locator(".confusion .cell").count() > 10
    for canvas in ("#map canvas.places", "#neighbours canvas.stage", "#masked canvas.stage"):
        assert len(pixels(window, canvas)) > 1500
    assert window.complaints == []


def test_skeletons_move_until_they_are_paused(opened, report_contents):
    window = opened(report_contents)
    for part in ("#neighbours", "#masked", "#views"):
        first = pixels(window, f"{part} canvas.stage")
        assert pixels(window, f"{part} canvas.stage") != first
    window.get_by_role("button", name="Pause all animations").click()
    first = pixels(window, "#views canvas.stage")
    assert pixels(window, "#views canvas.stage") == first
    # The viewpoint turns a skeleton that stands still.
    window.locator("#yaw").fill("120")
    assert pixels(window, "#views canvas.stage") != first


def test_reduced_motion_starts_paused(opened, report_contents):
    window = opened(report_contents, reduced_motion="reduce")
    first = pixels(window, "#views canvas.stage")
    assert pixels(window, "#views canvas.stage") == first
    window.get_by_role("button", name="Play all animations").click()
    assert pixels(window, "#views canvas.stage") != first


def test_pointer_and_keyboard_show_details(opened, report_contents):
    window = opened(report_contents)
    told = window.locator("#map .inspector dd.mono")
    names = {told.inner_text()}
    window.locator("#map canvas.places").focus()
    for _ in range(3):
        window.keyboard.press("ArrowRight")
        names.add(told.inner_text())
    assert len(names) == 4 and names <= set(report_contents["encoders"][0]["map"]["name"])
    window.locator("#learning .chart[tabindex]").first.focus()
    window.keyboard.press("ArrowRight")
    assert "optimizer step: 1" in window.locator("#learning figure").first.inner_text()
    window.locator("#confusions .cell").first.hover()
    assert " of " in window.locator("#confusions .told").first.inner_text()
    window.get_by_label("Find a setting").fill("optimizer.epochs")
    assert window.locator("#settings tbody tr").count() == 1


def test_hostile_names_are_only_shown(opened, report_contents):
    for run in report_contents["runs"]:
        run["name"] = run["path"] = run["data"] = HOSTILE
    for encoder in report_contents["encoders"]:
        encoder["map"]["classes"] = [HOSTILE] * len(encoder["map"]["classes"])
        encoder["map"]["name"] = [HOSTILE] * len(encoder["map"]["name"])
        for query in encoder["gallery"]:
            query["label"] = query["name"] = HOSTILE
    report_contents["warnings"] = report_contents["notes"] = [HOSTILE]
    report_contents["confusions"][0]["classes"][0] = HOSTILE
    window = opened(report_contents)
    pixels(window, "#neighbours canvas.stage")
    assert window.evaluate("typeof hacked") == "undefined"
    assert window.locator("img").count() == 0
    assert HOSTILE.split("&")[0] in window.locator(".warnings").inner_text()
    assert window.complaints == []


def test_empty_sections_say_what_is_missing(opened, report_contents):
    for part in ("encoders", "confusions", "masked", "views", "tables", "sequences"):
        report_contents[part] = []
    report_contents["charts"] = {"learning": [], "machine": []}
    report_contents["provenance"] = None
    window = opened(report_contents, PHONE)
    text = window.locator("main").inner_text()
    for sentence in ("No run has logged a step.", "No run has finished.", "provenance.json"):
        assert sentence in text
    assert window.locator("#masked").count() == 0 and window.complaints == []
