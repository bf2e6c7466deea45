"""The documentation site: built strictly, offline, with links that lead somewhere and every public name."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer.main
from conftest import ROOT

import ladm_hf
from ladm_hf.cli.app import app

pytest.importorskip("mkdocs", reason="the extra [docs] is not installed")
pytest.importorskip("mkdocstrings", reason="the extra [docs] is not installed")


class Page(HTMLParser):
    """Links, resources and anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.anchors: set[str] = set()
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") != "canonical":
            self.resources.append(values["href"])
        elif tag in ("script", "img", "iframe") and "src" in values:
            self.resources.append(values["src"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def site(folder: Path) -> dict[str, Page]:
    """Every page by its path; the one for addresses that do not exist has absolute links."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.html"))}
    return {name: Page(path) for name, path in paths.items() if name != "404.html"}


def test_links_within_the_site_lead_to_a_file_and_an_anchor(site: dict[str, Page], folder: Path) -> None:
    wrong = []
    for path, page in site.items():
        for link in [*page.links, *page.resources]:
            if re.match(r"[a-z]+:", link):
                continue
            target, _, anchor = unquote(link).partition("#")
            file = (folder / path).parent / target if target else folder / path
            found = site.get(os.path.relpath(file, folder))
            if not file.exists() or (anchor and found and anchor not in found.anchors):
                wrong.append(f"{path}: {link}")
    assert not wrong


def test_nothing_is_loaded_from_the_network(site: dict[str, Page]) -> None:
    loaded = {resource for page in site.values() for resource in page.resources}
    assert loaded
    assert not [resource for resource in loaded if re.match(r"(https?:)?//", resource)]


def test_scoring_json_lines_with_qwen3_is_two_clicks_away(site: dict[str, Page]) -> None:
    front = site["index.html"]
    assert "scoring.html" in front.links
    assert "#json-lines-with-qwen3" in site["scoring.html"].links
    assert "--model Qwen/Qwen3-0.6B" in re.sub(r"<[^>]+>", "", site["scoring.html"].text)


def test_the_reference_tells_every_public_name_and_parameter(site: dict[str, Page]) -> None:
    reference = {path: page for path, page in site.items() if path.startswith("reference/")}
    anchors = {anchor.rpartition(".")[2] for page in reference.values() for anchor in page.anchors}
    assert not {name for name in ladm_hf.__all__ if not name.startswith("__")} - anchors
    text = reference["reference/scoring.html"].text
    for name in list(inspect.signature(ladm_hf.LadmScorer.__init__).parameters)[1:]:
        assert f"<strong><code>{name}</code></strong>" in text, name


def test_the_command_line_is_told_with_every_option(site: dict[str, Page]) -> None:
    text = site["reference/command-line.html"].text
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        assert f'id="{name}"' in text
        for parameter in command.params:
            if not getattr(parameter, "hidden", False):
                assert parameter.opts[0] in text, f"{name} {parameter.opts}"
