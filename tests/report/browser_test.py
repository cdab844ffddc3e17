"""The pages in a real browser: they are drawn without errors, move, and fit a phone."""

import numpy as np
import pytest

from pcm3_jax import show
from pcm3_jax.report import page
from tests.report.report_test import HOSTILE, data_of
from tfds_builders.synthetic_skeletons import generator

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

    def open_page(contents, viewport=DESKTOP, scripts=page.REPORT, **options):
        path = tmp_path / "report.html"
        page.write(path, contents, scripts)
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        window = context.new_page()
        window.complaints = []
        window.on("console", lambda m: window.complaints.append(m.text))
        window.on("pageerror", lambda error: window.complaints.append(str(error)))
        window.on("request", lambda r: window.complaints.append(r.url) if "file" not in r.url
                  and not r.url.startswith("data:") else None)  # fmt: skip
        window.goto(f"file://{path}")
        # Written last.
        window.wait_for_selector("#footer:not(:empty)")
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


@pytest.fixture
def two_recordings(tmp_path):
    """What the page of two recordings shows with a classifier, whose labels are made up."""
    for number, clip in enumerate(generator.generate("test", 0, 2)):
        np.save(tmp_path / f"{number}.npy", 10 * clip.skeleton[:, :1])
    show.run([f"{tmp_path}/0.npy", f"{tmp_path}/1.npy", f"--out={tmp_path / 'show.html'}"])
    found = data_of((tmp_path / "show.html").read_text())
    for one, other in zip(found["recordings"], found["recordings"][::-1], strict=True):
        last, half = one["frames"] - 1, one["frames"] / 2
        one["whole"] = {"of": "the whole recording", "labels": [["wave", 0.9], ["bow", 0.1]]}
        one["labels"] = {
            "band": [
                {"start": 0, "stop": half, "label": "wave", "share": 0.9},
                {"start": half, "stop": last, "label": None, "share": 0.3},
            ],
            "at": [0, last],
            "series": [{"label": "wave", "values": [0.9, 0.3]}, {"label": "bow", "values": [0, 1]}],
            "note": "Windows of 20 frames.",
        }
        near = {key: other[key] for key in ("title", "name", "label")}
        near |= {"cosine": 0.5, "sequence": other["panels"][1]["sequence"]}
        one["neighbours"] = [near]
    return found


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_recordings_are_drawn_with_all_that_is_known(opened, two_recordings, viewport):
    window = opened(two_recordings, viewport, page.RECORDINGS)
    assert window.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    first = window.locator("#recording-0")
    assert first.locator("canvas.stage").count() == 3
    for part in (".panels figure:nth-child(1)", ".panels figure:nth-child(2)", ".nearest"):
        before = pixels(window, f"#recording-0 {part} canvas.stage")
        assert len(before) > 1500 and pixels(window, f"#recording-0 {part} canvas.stage") != before
    assert "decimetres" in first.locator(".warnings").inner_text()
    assert "wave" in first.locator(".chart svg").text_content()
    assert window.complaints == []


def test_slider_and_chart_stop_and_move_all_that_shows_a_frame(opened, two_recordings):
    window = opened(two_recordings, scripts=page.RECORDINGS)
    first, last = window.locator("#recording-0"), two_recordings["recordings"][0]["frames"] - 1
    picture = "#recording-0 .panels canvas.stage"
    first.locator("input[type=range]").fill("0")
    start, cursor = pixels(window, picture), first.locator(".chart .cursor")
    assert cursor.get_attribute("x1") == "8"
    assert first.locator(".legend b").first.inner_text() == "90 %"
    assert pixels(window, picture) == start
    chart = first.locator(".chart")
    width = chart.bounding_box()["width"]
    chart.click(position={"x": width - 8, "y": 60})
    assert float(cursor.get_attribute("x1")) == pytest.approx(width - 8, abs=1)
    assert f"frame {last} of {last + 1}" in first.inner_text()
    assert first.locator(".legend b").first.inner_text() == "30 %"
    assert pixels(window, picture) != start and window.complaints == []


def test_a_joint_under_the_pointer_is_named(opened, two_recordings):
    window = opened(two_recordings, scripts=page.RECORDINGS, reduced_motion="reduce")
    picture = "#recording-0 .panels canvas.stage"
    before = pixels(window, picture)
    place = window.evaluate(
        """() => {
          const one = document.querySelector("#recording-0 .panels canvas.stage").stage;
          window.named = [];
          const write = one.context.fillText;
          one.context.fillText = function (text, ...rest) {
            window.named.push(text);
            write.call(this, text, ...rest);
          };
          const sequence = unpacked(one.index);
          const time = (player.time / sequence.seconds) * (sequence.frames - 1);
          return pose(sequence, time, projection(one, one.options.height), 0)[3];
        }"""
    )
    window.locator(picture).first.hover(position={"x": place[0] + 3, "y": place[1] - 3})
    assert pixels(window, picture) != before
    assert window.evaluate("named") == ["head (3)"]


def test_hostile_names_of_recordings_are_only_shown(opened, two_recordings):
    for one in two_recordings["recordings"]:
        one["title"] = one["name"] = one["from"] = one["label"] = HOSTILE + 99 * "w"
        one["warnings"] = [HOSTILE]
        one["labels"]["band"][0]["label"] = one["labels"]["series"][0]["label"] = HOSTILE
        one["whole"]["labels"][0][0] = one["neighbours"][0]["title"] = HOSTILE
    two_recordings["title"] = two_recordings["heading"] = two_recordings["lead"] = HOSTILE
    window = opened(two_recordings, PHONE, page.RECORDINGS)
    assert window.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    pixels(window, "#recording-0 canvas.stage")
    assert window.evaluate("typeof hacked") == "undefined"
    assert window.locator("img").count() == 0 and window.complaints == []
