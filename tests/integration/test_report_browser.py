"""The report in a real browser: it draws, answers the pointer, fits a phone, and asks nothing of a
network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from nas.files import write_text, write_yaml
from nas.space import load_architecture

CHROMIUM = shutil.which("chromium")
IN_CI = os.environ.get("CI", "") not in ("", "0", "false")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None and not IN_CI, reason="no chromium here: apt-get install chromium"
    ),
]

STAR = "[aria-label*='series: published']"
TOOLTIP = "#vg-tooltip-element.visible"
NARROW = {"width": 360, "height": 740}
WIDE = {"width": 1280, "height": 900}


def nas(folder: Path, *arguments: str) -> dict:
    command = [sys.executable, "-m", "nas", *arguments, "--json"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def put_beside(run: Path) -> None:
    """What `nas check` and `nas finetune` write, made up: this test is about how it is shown."""
    operations = [
        {"name": op.name, "kind": op.spec.kind, "predicted_ms": 0.02, "measured_ms": 0.022}
        for op in load_architecture(run / "architecture.yaml").operations()
    ]
    write_yaml(
        run / "check-iphone12.yaml",
        {
            "format": "nas-run-check-1",
            "device": "iphone12",
            "measured_ms": 1.4,
            "predicted_ms": 1.34,
            "error_percent": -4.3,
            "date": "2026-01-31",
            "profile": "each alone",
            "operations": operations,
        },
    )
    found = {"accuracy": 71.5, "standard_error": 2.0, "images": 100}
    write_yaml(
        run / "finetune" / "finetune.yaml",
        {
            "format": "nas-finetune-1",
            "command": "nas finetune",
            "start": "inherited",
            "provenance": "made up",
            "accuracy": {
                "weights": "raw",
                "held_out": {"source": "made up", "raw": found},
                "test": None,
            },
        },
    )
    write_text(run / "finetune" / "metrics.csv", "epoch,loss,accuracy\n0.5,2.1,30\n1,1.5,52\n")
    write_text(run / "finetune" / "weights.safetensors", "")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The page of one run, and that of two."""
    folder = tmp_path_factory.mktemp("report")
    for space in ("efficientformer", "swiftformer"):
        nas(
            folder,
            "search",
            "--space",
            space,
            "--device",
            "iphone12",
            "--front",
            "--out",
            f"runs/{space}",
        )
    one = folder / nas(folder, "report", "runs/swiftformer")["page"]
    put_beside(folder / "runs/efficientformer")
    two = folder / nas(folder, "report", "runs/efficientformer", "runs/swiftformer")["page"]
    return SimpleNamespace(one=one, two=two)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start for root, who runs CI.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """A function from a page's file and a viewport to the page, opened without a network; it must
    log no error."""
    contexts = []
    errors = []
    requests = []

    def open_page(path: Path, viewport: dict[str, int], **options: object):
        context = browser.new_context(viewport=viewport, offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console",
            lambda message: (
                errors.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_function(
            "document.querySelectorAll('.chart').length === document.querySelectorAll('.chart"
            " svg.marks').length"
        )
        return page

    yield open_page
    assert errors == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    for context in contexts:
        context.close()


def marks(page) -> dict[str, int]:
    """Return how many bars, points, lines and cells every chart has, by its caption."""
    return page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('.figure')].map((figure, index) => [
        index + ' ' + figure.querySelector('figcaption').textContent,
        figure.querySelectorAll('svg.marks [role="graphics-symbol"]').length]))"""
    )


def centre(locator) -> tuple[float, float]:
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_chart_has_marks_and_the_page_fits(opened, pages, viewport, scheme):
    page = opened(pages.two, viewport, color_scheme=scheme)
    found = marks(page)
    for caption in (
        "Fronts",
        "Pareto front of",
        "Latency by operation",
        "efficientformer on iphone12",
        "Accuracy over the fine-tuning",
    ):
        assert any(caption in name for name in found), found
    assert all(found.values()), found
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    page.wait_for_timeout(100)
    widths = page.evaluate(
        "[...document.querySelectorAll('.chart svg.marks')].map((svg) =>"
        " svg.getBoundingClientRect().right)"
    )
    assert max(widths) <= viewport["width"]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    assert page.locator("svg.network rect").count() > 40


def test_pointing_at_a_member_shows_its_shape(opened, pages):
    page = opened(pages.one, WIDE)
    chart = page.locator(".chart").first
    chart.scroll_into_view_if_needed()
    page.mouse.move(*centre(chart.locator(STAR).last), steps=4)
    hover = page.locator(TOOLTIP)
    hover.wait_for(timeout=5000)
    text = hover.text_content()
    assert (
        "widths" in text
        and "M parameters" in text
        and " ms, " in text
        and "published; predicted without this result" in text
    )
    title = page.locator("svg.network g title").first.text_content()
    assert "stem: conv_stem" in title and "M MACs" in title


def test_a_tap_shows_a_member_and_a_swipe_over_a_chart_scrolls(opened, pages):
    page = opened(pages.one, NARROW, has_touch=True, is_mobile=True)
    chart = page.locator(".chart").first
    chart.scroll_into_view_if_needed()
    page.touchscreen.tap(*centre(chart.locator(STAR).last))
    page.locator(TOOLTIP).wait_for(timeout=5000)
    assert "widths" in page.locator(TOOLTIP).text_content()
    # What moves a figure by dragging would catch the finger that scrolls the page.
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.chart svg.marks')).touchAction")
        == "auto"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]


def test_the_page_prints_on_white_with_its_tables_open(opened, pages, tmp_path):
    page = opened(pages.one, WIDE, color_scheme="dark")
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 50_000
    page.emulate_media(media="print")
    page.wait_for_timeout(200)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    letters = page.evaluate(
        "getComputedStyle(document.querySelector('.chart svg.marks text')).fill"
    )
    assert letters == "rgb(0, 0, 0)"


def test_text_and_network_need_no_scripts(browser, pages):
    context = browser.new_context(viewport=WIDE, java_script_enabled=False)
    page = context.new_page()
    page.goto(pages.one.as_uri())
    assert page.get_by_text("Sources of the figures").is_visible()
    assert page.locator("svg.network").first.is_visible()
    context.close()
