"""Hook of MkDocs: pages that lie outside `docs` become part of the site (`make site`).

The documents of the checkout link to each other by their paths there, so that they can be read
without a site. CONTRIBUTING.md, CHANGELOG.md and the README of each experiment become pages, and
links to them lead to those pages. What else lies outside of `docs` is no page: such a link becomes
its text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
SCHEME = re.compile(r"[a-z]+:|/|#")


def outside() -> dict[str, str]:
    """Return the pages from outside `docs`: path in the site by path in the checkout."""
    readmes = sorted(ROOT.glob("experiments/*/README.md"))
    paths = [readme.relative_to(ROOT).as_posix() for readme in readmes]
    return {path: path for path in ["CONTRIBUTING.md", "CHANGELOG.md", *paths]}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the experiments into the navigation, whose number changes."""
    pages = [path for path in outside() if path.startswith("experiments/")]
    config.nav = [
        {"Experiments": pages} if entry == {"Experiments": "experiments/"} else entry
        for entry in config.nav or []
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside, and the pictures beside them."""
    for path, page in outside().items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
        for picture in sorted((ROOT / path).parent.glob("*.png")) if "/" in path else []:
            name = picture.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links of the checkout to the pages of the site."""
    here = page.file.src_uri
    inside = here in outside()
    # The page's own folder, in the checkout and in the site.
    folder = posixpath.dirname(here if inside else f"docs/{here}")

    def lead(match: re.Match[str]) -> str:
        picture, text, target, anchor = match.groups()
        if SCHEME.match(target):
            return match.group(0)
        path = posixpath.normpath(posixpath.join(folder, target))
        if (ROOT / path).is_dir() and f"{path}/README.md" in outside():
            path += "/README.md"
        page_path = path.removeprefix("docs/") if path.startswith("docs/") else path
        if files.get_file_from_path(page_path) is None:
            return text if (ROOT / path).exists() else match.group(0)
        relative = posixpath.relpath(page_path, posixpath.dirname(here) or ".")
        return f"{picture}[{text}]({relative}{anchor or ''})"

    # Blocks of code keep what looks like a link.
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(lead, part) for part in parts)
