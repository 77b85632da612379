"""A browser that is installed already, without a network, and a page that it looks at."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from ftcore.report.comparison import comparison
from ftcore.report.page import page
from ftcore.report.record import read_record
from synthetic_run import NASTY, Synthetic

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
STEPS = 2000


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Skips what needs one where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on PATH")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of one run, and one that compares two."""
    place = tmp_path_factory.mktemp("pages")
    folders = [
        Synthetic(folder=place / "runs" / "first", steps=STEPS, name=NASTY).write(),
        Synthetic(folder=place / "runs" / "second", steps=300, gpus=9).write(),
    ]
    records = [read_record(folder) for folder in folders]
    pages = {"one": page(records[0]), "many": page(records[1]), "both": comparison(records)}
    for name, text in pages.items():
        (place / f"{name}.html").write_text(text, "utf-8")
    return {name: place / f"{name}.html" for name in pages}


@attrs.define
class Shown:
    """A page that is open, what it has said to the console, and what it has asked for."""

    page: Any
    console: list[str] = attrs.field(factory=list)
    requests: list[str] = attrs.field(factory=list)

    def hover(self, chart: str, step: float, last: float = STEPS) -> str:
        """Point at a step of a chart; the text that is shown."""
        plot = self.page.locator(f"#chart-{chart} .plot")
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        self.page.mouse.move(box["x"] + self.x(box["width"], step / last), box["y"] + box["height"] / 2)
        return str(self.page.locator(f"#chart-{chart} .tip").inner_text())

    def drag(self, chart: str, first: float, last: float) -> None:
        """Drag from one share of what is shown to another."""
        plot = self.page.locator(f"#chart-{chart} .plot")
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        y = box["y"] + box["height"] / 2
        self.page.mouse.move(box["x"] + self.x(box["width"], first), y)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + self.x(box["width"], last), y, steps=4)
        self.page.mouse.up()

    @staticmethod
    def x(width: float, share: float) -> float:
        """Where a share of what is shown lies; the margins are those of chart.js."""
        return 64 + share * (width - 64 - 14)

    @property
    def range(self) -> str:
        """Which steps are shown; empty for all."""
        return str(self.page.locator("#shown").inner_text())


@pytest.fixture
def show(browser: Any, files: dict[str, Path]) -> Iterator[Callable[..., Shown]]:
    """Open a page; nothing on it may fail or reach for the network."""
    opened: list[Shown] = []

    def open_page(name: str = "one", *, width: int = 1280, **options: Any) -> Shown:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        shown = Shown(context.new_page())
        shown.page.set_default_timeout(10_000)
        shown.page.on("console", lambda message: shown.console.append(message.text))
        shown.page.on("pageerror", lambda error: shown.console.append(str(error)))
        shown.page.on("request", lambda request: shown.requests.append(request.url))
        shown.page.goto(files[name].as_uri())
        opened.append(shown)
        return shown

    yield open_page
    for shown in opened:
        assert shown.console == []
        assert [url for url in shown.requests if not url.startswith(("file:", "data:"))] == []
        shown.page.context.close()
