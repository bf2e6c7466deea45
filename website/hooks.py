"""Pages of the site that are not files of `docs/`: the READMEs, the changelog, and the references.

Pages link to files of the repository, as on a code host. Here such a link leads to the page made of that file, or to a
copy of the file where there is none.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from posixpath import normpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent))

from command_line import command_line_page  # noqa: E402

# Page: the file that it is made of.
WHOLE = {
    "index.md": "README.md",
    "method.md": "ladm_hf/ops/README.md",
    "ladm-nano.md": "ladm_hf/calculators/ladm_nano/README.md",
    "scripts.md": "hub_scripts/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
# Page: its title, a module, and public names of it in the order of their use.
REFERENCE = {
    "scoring": (
        "Scoring",
        "ladm_hf",
        "LadmScorer ladm_score LadmConfig DocumentScore FocusMap SpanGrid register_attention",
    ),
    "runs": ("Runs", "ladm_hf", "score_dataset Cascade run_status RunStatus prepare_dataset is_first_rank"),
    "selection": (
        "Selection",
        "ladm_hf",
        "select Selection add_percentile compare parse_budget parse_tokens parse_score parse_keep",
    ),
    "packing": ("Packing", "ladm_hf", "pack PackRecord"),
    "publishing": ("Publishing", "ladm_hf", "publish build_card"),
    "training": (
        "Training",
        "ladm_hf.training",
        "load_documents library_documents train_tokenizer tokenize_documents TokenizedDocument held_out Recipe PAPER "
        "Architecture WindowMix train_calculator average_calculators calibrate Calibration write_calibration "
        "labelled_windows WindowDataset",
    ),
}  # fmt: skip
# Page: its title, and names of modules that are imported from where they are.
MODULES = {
    "integrations": (
        "Other engines",
        {
            "ladm_hf.integrations.ray_data": ["RowScorer"],
            "ladm_hf.integrations.datatrove": ["LadmStep"],
            "ladm_hf.integrations.evaluate": ["Ladm", "score_distributed"],
        },
    )
}
FENCE = re.compile(r"^(`{3,})[^\n]*\n.*?^\1[ \t]*$", re.M | re.S)
LINK = re.compile(r"\[([^\[\]]*)\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages, and to all pages the links of the site."""
    pages = {file.src_uri: (f"docs/{file.src_uri}", file.content_string) for file in files.documentation_pages()}
    pages |= {page: (source, _without_front_matter(_read(source))) for page, source in WHOLE.items()}
    copies: set[str] = set()
    titles = {
        page: title[1]
        for page, (_, text) in pages.items()
        if (title := re.search(r"^# (.+?)(?: \{.*\})?$", text, re.M))
    }
    for page, (source, text) in pages.items():
        _add(files, config, page, _with_links(text, page, source, titles, copies))
    for page, text in _references().items():
        _add(files, config, f"reference/{page}.md", text)
    for path in sorted(copies):
        files.append(File.generated(config, _copy(path), content=(ROOT / path).read_bytes()))
    return files


def _add(files: Files, config: MkDocsConfig, page: str, text: str) -> None:
    if (old := files.get_file_from_path(page)) is not None:
        files.remove(old)
    files.append(File.generated(config, page, content=text))


def _read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def _without_front_matter(text: str) -> str:
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)


def _with_links(text: str, page: str, source: str, titles: dict[str, str], copies: set[str]) -> str:
    """The page with links to pages, and the files that no page is made of added to the copies."""
    by_source = {path: target for target, path in WHOLE.items()}

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = normpath(str(PurePosixPath(source).parent / target))
        if path.startswith("docs/"):
            found = path.removeprefix("docs/")
        elif path in by_source:
            found = by_source[path]
        elif (ROOT / path).is_file():
            copies.add(path)
            found = _copy(path)
        else:
            raise PluginError(f"{source} links to {target}, which is no file of the repository")
        # a path says nothing to a reader of the site
        if text in (path, path.removesuffix("/README.md"), PurePosixPath(path).name):
            text = titles.get(found, text)
        return f"[{text}]({_relative(found, page)}{anchor})"

    pieces, end = [], 0
    for fence in FENCE.finditer(text):
        pieces += [LINK.sub(link, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*pieces, LINK.sub(link, text[end:])])


def _copy(path: str) -> str:
    """Where the copy of a file lies; with a name that a browser shows, not saves."""
    return f"files/{path}" if path.endswith((".png", ".svg")) else f"files/{path}.txt"


def _relative(target: str, page: str) -> str:
    return "../" * page.count("/") + target


def _references() -> dict[str, str]:
    """The pages of the reference, which name every public name once."""
    pages = {"command-line": command_line_page(), "errors": _errors_page()}
    for page, (title, module, names) in REFERENCE.items():
        homes = _homes(module)
        entries = [_entry(f"{homes[name]}.{name}") for name in names.split()]
        pages[page] = f"# {title}\n\nImported from `{module}`.\n\n" + "\n".join(entries)
    for page, (title, modules) in MODULES.items():
        entries = [_entry(f"{module}.{name}") for module, names in modules.items() for name in names]
        pages[page] = f"# {title}\n\n" + "\n".join(entries)
    _check_complete()
    return pages


def _homes(module: str) -> dict[str, str]:
    """The module of each public name."""
    homes = importlib.import_module(module)._HOMES
    return {name: home if home.startswith("ladm_hf") else f"{module}.{home}" for name, home in homes.items()}


def _check_complete() -> None:
    for module in {module for _, module, _ in REFERENCE.values()}:
        told = {name for _, of, names in REFERENCE.values() if of == module for name in names.split()}
        public = {name for name in importlib.import_module(module).__all__ if not name.startswith("__")}
        # the errors have a page of their own
        if missing := (public - told - {"LadmError"}) | (told - public):
            raise PluginError(f"REFERENCE in website/hooks.py and {module}.__all__ differ by {sorted(missing)}")


def _errors_page() -> str:
    from ladm_hf import errors

    names: Iterable[str] = [name for name, value in vars(errors).items() if isinstance(value, type)]
    text = "# Errors\n\n```python\nfrom ladm_hf.errors import InputError\n```\n\n"
    tree = errors.__doc__ or ""
    return f"{text}{tree}\n\n" + "\n".join(_entry(f"ladm_hf.errors.{name}") for name in names)


def _entry(path: str) -> str:
    return f"::: {path}\n"
