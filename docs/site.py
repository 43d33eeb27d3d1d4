"""What MkDocs does beside its settings in ``mkdocs.yml``.

Pages that belong elsewhere in the repository are pages of the site too. A path such as `docs/live.md`, which people read in the
repository and in messages, becomes a link.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

REPOSITORY = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "RELEASING.md": "releasing.md",
    "SECURITY.md": "security.md",
    "charts/servingplan/README.md": "chart.md",
}
"""Pages of the repository outside ``docs/``, and their names on the site."""
TROUBLE = "When something is wrong"
_PATH = re.compile(r"(?<!\[)`(" + "|".join(map(re.escape, ELSEWHERE)) + r"|docs/[\w/-]+\.md)`(?!\])")
_LINK = re.compile(r"\]\((?:\.\./|docs/)?([\w/.-]+\.(?:md|webp))(#[\w-]+)?\)")


def on_files(files: Files, config: Any) -> Files:
    """The pages of ``docs/`` and those from elsewhere."""
    from mkdocs.structure.files import File  # here, so that the tests can read this module without MkDocs

    for source, name in ELSEWHERE.items():
        files.append(File.generated(config, name, content=(REPOSITORY / source).read_text()))
    return files


def on_config(config: Any) -> Any:
    """The pages of the reasons become a section of the list of pages."""
    listed = [{page.stem: f"reasons/{page.name}"} for page in sorted((REPOSITORY / "docs" / "reasons").glob("*.md"))]
    (section,) = (entry[TROUBLE] for entry in config["nav"] if TROUBLE in entry)
    section.append({"Reasons": listed})
    return config


def on_page_markdown(markdown: str, *, page: Any = None, **_: Any) -> str:
    """The page with links that hold on the site. Code blocks stay as they are."""
    up = "" if page is None else "../" * page.file.src_uri.count("/")
    parts = re.split(r"(^ *```.*?^ *```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if at % 2 else _linked(part, up) for at, part in enumerate(parts))


def _linked(text: str, up: str) -> str:
    text = _LINK.sub(lambda found: f"]({up}{_on_site(found[1])}{found[2] or ''})", text)
    return _PATH.sub(lambda found: f"[`{found[1]}`]({up}{_on_site(found[1])})", text)


def _on_site(path: str) -> str:
    return ELSEWHERE.get(path, path.removeprefix("docs/"))
