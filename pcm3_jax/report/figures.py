"""The page's figures as files, taken by a browser: charts and maps as PNG, skeletons as GIF."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Error, Locator, sync_playwright

from pcm3_jax.errors import UserError
from pcm3_jax.runtime.files import replaced, shown

# Path of an installed browser; None selects the one of `playwright install chromium`.
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, _NAMES)), None)
# PNG: pixels per CSS pixel.  GIF: frames per second, maximal length and final pause in seconds.
_SCALE, _GIF_RATE, _GIF_SECONDS, _GIF_PAUSE = 2, 15, 6, 0.6


def write(folder: Path, page: Path) -> list[Path]:
    """Writes a file for every element that has ``data-figure``, which names the file.

    Args:
      folder: created if missing.
      page: the report.

    Returns:
      The files written.

    Raises:
      UserError: the folder cannot be created, or no browser starts.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{shown(str(folder))} cannot be created: {error.strerror}.") from error
    written = []
    with sync_playwright() as program:
        try:
            browser = program.chromium.launch(executable_path=BROWSER)
        except Error as error:
            raise UserError(
                "--figures needs Chromium: install it, or run `playwright install chromium`."
            ) from error
        window = browser.new_page(
            viewport={"width": 1100, "height": 1000}, device_scale_factor=_SCALE
        )
        # With reduced motion the page's animation clock is stopped; `_gif` sets its time.
        window.emulate_media(media="print", color_scheme="light", reduced_motion="reduce")
        window.goto(page.absolute().as_uri())
        # A few queries of a gallery are enough for a figure.
        window.add_style_tag(content=".query:not(:nth-child(3n+1)) { display: none }")
        for figure in window.locator("[data-figure]").all():
            name = re.sub(r"[^\w@.-]+", "_", figure.get_attribute("data-figure") or "")[-120:]
            save = _gif if name.endswith(".gif") else _png
            with replaced(folder / name) as partial:
                save(partial, figure)
            written.append(folder / name)
        browser.close()
    return written


def _png(path: Path, figure: Locator) -> None:
    path.write_bytes(figure.screenshot())


def _gif(path: Path, figure: Locator) -> None:
    """The skeletons of a figure from the start to the end of the longest sequence."""
    figure.scroll_into_view_if_needed()
    lengths = figure.locator(".stage").evaluate_all("all => all.map((one) => one.stage.seconds)")
    seconds = min(max(lengths), _GIF_SECONDS)
    count = max(2, round(seconds * _GIF_RATE))
    frames: list[Image.Image] = []
    for number in range(count):
        figure.page.evaluate("showAt", seconds * number / (count - 1))
        frames.append(Image.open(io.BytesIO(figure.screenshot(scale="css"))))
    durations = [1000 / _GIF_RATE] * (count - 1) + [1000 * _GIF_PAUSE]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
