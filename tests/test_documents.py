"""Documents: what they link to is there, and no command asks an index for a package of ours."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nas
from nas.versions import __version__

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "experiments/*/README.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def links(document: Path) -> list[str]:
    """Return what a document links to within the project, blocks of code left out."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_internal_links_resolve(document: Path) -> None:
    for target in links(document):
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), f"{document.name}: {target} does not exist"
        if anchor:
            assert anchor in anchors(path), f"{document.name}: {target} has no such heading"


def test_there_are_links_to_look_at() -> None:
    assert sum(len(links(document)) for document in DOCUMENTS) > 20


def test_every_page_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    reached = {(index.parent / target.partition("#")[0]).resolve() for target in links(index)}
    assert set((ROOT / "docs").glob("*.md")) - {index} <= reached


def outputs(document: Path) -> list[str]:
    """Return the blocks of a document that have no language."""
    blocks = document.read_text(encoding="utf-8").split("```")[1::2]
    return [block.removeprefix("\n") for block in blocks if block.startswith("\n")]


def test_documents_show_what_a_search_prints(tmp_path: Path) -> None:
    """All but the name of the run, which has the time."""
    command, shown, *_ = outputs(ROOT / "docs" / "search.md")
    assert command.strip() in (ROOT / "README.md").read_text(encoding="utf-8")
    shown += outputs(ROOT / "README.md")[0]
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    printed = done.stderr.splitlines() + done.stdout.splitlines()
    assert done.returncode == 0 and len(shown.splitlines()) > 20
    for line in shown.splitlines():
        name = re.sub(r"-\d{8}-\d{6}", "", line)
        assert name in [re.sub(r"-\d{8}-\d{6}", "", each) for each in printed], line


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "DISABLE_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = {page.parent.name for page in (tmp_path / "site").rglob("index.html")}
    outside = {"CONTRIBUTING", "CHANGELOG", *(path.name for path in ROOT.glob("experiments/*"))}
    assert pages >= {path.stem for path in (ROOT / "docs").rglob("*.md")} - {"index"}
    # Only experiments with a README have a page.
    assert {
        name for name in outside if (ROOT / "experiments" / name / "README.md").is_file()
    } <= pages
    reference = (tmp_path / "site" / "reference" / "api" / "index.html").read_text()
    described = set(re.findall(r'id="(nas\.[\w.]+)"', reference))
    for name in set(nas.__all__) - {"__version__"}:
        # A function whose name a package has too stands under its full name.
        full = f"{getattr(nas, name).__module__}.{name}"
        assert described & {f"nas.{name}", full}, name


def test_no_command_asks_an_index_for_our_package() -> None:
    texts = [*DOCUMENTS, *(ROOT / "nas").rglob("*.py"), ROOT / "Makefile"]
    for path in texts:
        assert not re.search(r"pip install ['\"]?nas-mobile", path.read_text(encoding="utf-8")), (
            path
        )


def test_the_citation_has_the_version() -> None:
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
