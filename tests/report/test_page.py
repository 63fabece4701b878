"""The page is whole, needs nothing from outside, and takes nothing from a file for markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import yaml

from nas.devices.info import Profiled
from nas.figures import script
from nas.files import write_yaml
from nas.latency import load_table
from nas.report.breakdown import ROLES
from nas.report.figure import FOUND, PUBLISHED
from nas.report.labels import COLOURS
from nas.report.page import network_svg, render
from nas.report.run import load_runs
from nas.report.trajectory import ACTIONS
from nas.space import load_architecture

EVIL = "</script><img src=x onerror=alert(1)>"


class _Page(HTMLParser):
    """Collects what matters of a page: tags, addresses, figures, text outside of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.figures: list[dict] = []
        self.text = ""
        self._script: str | None = None

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.tags.append(tag)
        self.addresses += [
            known[name] for name in ("src", "href", "action", "data") if known.get(name)
        ]
        if tag in ("script", "style"):
            self._script = known.get("type", tag)

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._script = None

    def handle_data(self, data):
        if self._script == "application/json":
            self.figures.append(json.loads(data))
        elif self._script is None:
            self.text += data


def parsed(html: str) -> _Page:
    page = _Page()
    page.feed(html)
    return page


@pytest.fixture
def whole(make_run, add_everything):
    folder = make_run(note=EVIL)
    add_everything(folder, load_architecture(folder / "architecture.yaml"))
    return folder


def test_nothing_comes_from_outside(whole):
    page = parsed(render(load_runs(whole), "nas report"))
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert (
        "Content-Security-Policy" in render(load_runs(whole), "nas report") and "link" in page.tags
    )


def test_what_stands_in_files_is_text(whole):
    html = render(load_runs(whole), f"nas report {EVIL}")
    page = parsed(html)
    assert "img" not in page.tags and page.text.count("onerror=alert(1)") == 2
    assert html.count("onerror=alert") == html.count("onerror=alert(1)&gt;")


def test_control_characters_of_names_are_shown_as_escapes(whole):
    (run,) = load_runs(whole)
    name = "one\x1b[31m\u202e\x07"
    odd = replace(
        run,
        name=name,
        front=replace(
            run.front,
            title=name,
            published=tuple(replace(point, label=name) for point in run.front.published),
        ),
    )
    html = render([odd], f"nas report {name}")
    assert not re.findall("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e]", html.replace(script(), ""))
    assert r"one\x1b[31m\u202e\x07" in html
    titles = [
        figure
        for figure in parsed(html).figures
        if r"one\x1b[31m" in json.dumps(figure).replace("\\\\", "\\")
    ]
    assert titles, "labels in figures are escaped too"


def test_a_page_shows_every_part(whole):
    (run,) = load_runs(whole)
    page = parsed(render([run], "nas report runs/one"))
    # Front, breakdown, trajectory, both alphas, fine-tuning.
    assert len(page.figures) == 6
    for text in (
        "Sources of the figures",
        "Predicted and measured",
        "72.25",
        "model.onnx",
        "made up for a test",
        "sha-256",
        "nas finetune runs/one",
    ):
        assert text.lower() in page.text.lower()
    assert "Missing from this page" not in page.text
    operations = len(run.architecture.operations()) + run.drawing.dropped
    assert len(re.findall("<g><title>", render([run], "nas report"))) == operations
    picture = network_svg(run, "a <title> & more")
    assert len(re.findall("<g><title>", picture)) == operations
    assert "a &lt;title&gt; &amp; more" in picture


def test_the_whole_chain_of_commands_is_there_to_repeat(make_run, add_everything):
    """From the table and the supernet to the check, in the order in which they are run."""
    folder = make_run()
    add_everything(folder, load_architecture(folder / "architecture.yaml"))
    write_yaml("runs/supernet/supernet.yaml", {"command": "nas train --space small --data digits"})
    write_yaml(
        folder / "run.yaml",
        {**yaml.safe_load((folder / "run.yaml").read_text()), "supernet": "runs/supernet"},
    )
    measured = load_table("toy")
    entry = Profiled(
        space="small",
        name="small",
        resolution="64x64/10",
        scale=1.0,
        intercept_ms=0.1,
        nets=5,
        mape=1.0,
    )
    replace(measured.device, spaces=(entry,)).save("latency_tables/toy/device.yaml")
    _, _, text = parsed(render(load_runs(folder), "nas report runs/one")).text.partition(
        "Commands to reproduce this run"
    )
    places = [
        text.find(command)
        for command in (
            "nas profile --space small --device toy --resolution 64x64 --classes 10",
            "nas train --space small --data digits",
            "nas search --space small",
            "nas finetune runs/one --data digits",
            "nas export runs/one --to onnx",
            "nas check runs/one --device toy",
            "nas report runs/one",
        )
    ]
    assert -1 not in places and places == sorted(places)


def test_missing_parts_are_named_with_their_commands(make_run):
    folder = make_run(with_front=False)
    page = parsed(render(load_runs(folder), "nas report"))
    for command in (
        f"nas check {folder} --device toy",
        f"nas export {folder} --to litert",
    ):
        assert command in page.text
    assert "Missing from this page" in page.text and len(page.figures) == 3


def test_several_runs_stand_side_by_side(make_run):
    runs = [
        run
        for name, engine in (("one", "slimming"), ("two", "exact"))
        for run in load_runs(make_run(name, engine=engine))
    ]
    page = parsed(render(runs, "nas report"))
    names = {
        row.get("series") for each in page.figures[0]["layer"] for row in each["data"]["values"]
    }
    assert {"one", "two", "one: found", "two: found"} <= names
    assert "#run-1" in page.addresses and "#run-2" in page.addresses
    assert "for different devices" not in page.text and "cannot be compared" not in page.text


@pytest.mark.parametrize("background", ["#ffffff", "#14171b"])
@pytest.mark.parametrize(
    "colour",
    sorted(
        {*COLOURS, *(colour for _, colour in ROLES.values())}
        | {each.colour for each in (FOUND, PUBLISHED, *ACTIONS.values())}
    ),
)
def test_colours_stand_out_in_light_and_in_dark(colour, background):
    """At least 3 to 1, what WCAG 2.1 asks of graphics (1.4.11)."""
    lighter, darker = sorted((luminance(colour), luminance(background)), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 3


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
