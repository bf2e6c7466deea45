"""Documents that every installation holds: the source code and the documentation of Python and of its packages.

They stand in where no corpus is given. There is one document for each module or package of the standard library and
each part of an installed package, in domain `code`, and for its documentation, the docstrings in the order of the
files, in domain `reference`, with the chapters of Python's own reference. A calculator read on them is read on English
prose about programs and on Python: documents of one's own say more about one's own.
"""

from __future__ import annotations

import ast
import importlib.util
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

NOT_DOCUMENTS = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "__pycache__",
    "idlelib",
    "lib2to3",
    "encodings",
    "pydoc_data",
}
# What this package needs is installed wherever it runs.
PACKAGES = ("datasets", "fsspec", "huggingface_hub", "numpy", "pandas", "pyarrow", "torch", "tqdm", "transformers")
# Characters of a document at most, documents of one package at most, and what counts as a short document.
MAX_CHARS, PARTS, SHORT_CHARS = 160_000, 8, 8_000


def library_modules() -> Iterator[tuple[str, str]]:
    """`(name, source)` of every module and package of the standard library, a package being its files in path order."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.iterdir()):
        if path.name.startswith((".", "_sysconfigdata", "config-")) or path.name in NOT_DOCUMENTS:
            continue
        if path.suffix == ".py":
            yield path.name, path.read_text(encoding="utf-8", errors="ignore")
        elif (path / "__init__.py").is_file():
            yield path.name, joined_files(path, library)


def joined_files(folder: Path, root: Path, max_chars: int | None = None) -> str:
    """The Python files of a folder in path order, each under its name."""
    parts, size = [], 0
    for file in sorted(folder.rglob("*.py")):
        if NOT_DOCUMENTS.isdisjoint(file.parts[len(folder.parts) :]):
            parts.append(f"# File: {file.relative_to(root)}\n{file.read_text('utf-8', 'ignore')}")
            size += len(parts[-1])
            if max_chars is not None and size > max_chars:
                break
    return "\n".join(parts)


def library_documents() -> Dataset:
    """The documents, with columns `text`, `domain`, `source`, `kind` (`long`, `short` or empty) and `id`."""
    from datasets import Dataset

    rows = []
    for source, name, text in _sources():
        rows.append(_row("code", source, name, text))
        rows.append(_row("reference", source, name, _docstrings(text)))
    rows += [_row("reference", "python: reference", name, text) for name, text in _topics()]
    return Dataset.from_list([row for row in rows if row["text"].strip()])


def _row(domain: str, source: str, name: str, text: str) -> dict[str, str]:
    kind = "short" if len(text) < SHORT_CHARS else "long"
    return {"text": text[:MAX_CHARS], "domain": domain, "source": source, "kind": kind, "id": f"{domain}: {name}"}


def _sources() -> Iterator[tuple[str, str, str]]:
    """`(source, name, text)` of the standard library's modules and the longest parts of installed packages."""
    for name, text in library_modules():
        yield f"python: {name}", name, text
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found is None or not found.origin:
            continue
        folder = Path(found.origin).parent
        parts = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name not in NOT_DOCUMENTS]
        sized = [(path, joined_files(path, folder.parent, MAX_CHARS)) for path in parts]
        longest = sorted(sized, key=lambda part: -len(part[1]))[:PARTS]
        yield from ((package, f"{package}.{path.name}", text) for path, text in longest)


def _docstrings(text: str) -> str:
    """The documentation in a program, in the order of its lines; empty where it does not parse."""
    found = []
    for part in text.split("\n# File: "):
        try:
            tree = ast.parse(part if part is text else f"# File: {part}")
        except (SyntaxError, ValueError):
            continue
        nodes = [
            node
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        ]
        nodes.sort(key=lambda node: getattr(node, "lineno", 0))
        for node in nodes:
            documentation = ast.get_docstring(node)
            if documentation:
                found.append(f"{getattr(node, 'name', '')}\n{documentation}".strip())
    return "\n\n".join(found)


def _topics() -> Iterator[tuple[str, str]]:
    """The chapters of the language reference that `help()` shows, where Python was installed with them."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return
    yield from sorted(topics.items())
