from __future__ import annotations

import pytest

from ladm_hf.training import library


def test_every_installation_has_code_and_its_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [(name, text) for name, text in library.library_modules() if name in ("argparse.py", "json", "token.py")]
    monkeypatch.setattr(library, "library_modules", lambda: iter(modules))
    monkeypatch.setattr(library, "PACKAGES", ("tqdm", "no_such_package"))
    rows = {row["id"]: row for row in library.library_documents()}
    assert {row["domain"] for row in rows.values()} == {"code", "reference"}
    assert "def add_argument" in rows["code: argparse.py"]["text"]
    assert rows["code: argparse.py"]["kind"] == "long"
    assert rows["code: argparse.py"]["source"] == rows["reference: argparse.py"]["source"] == "python: argparse.py"
    assert "# File: json/decoder.py" in rows["code: json"]["text"]
    documentation = rows["reference: json"]["text"]
    assert "import JSONDecoder" not in documentation
    assert documentation.startswith("JSON (JavaScript Object Notation)")
    assert {rows[name]["source"] for name in rows if "tqdm." in name} == {"tqdm"}
    assert all(0 < len(row["text"]) <= library.MAX_CHARS for row in rows.values())


def test_what_does_not_parse_has_no_documentation() -> None:
    assert library._docstrings("def broken(:\n") == ""
    assert library._docstrings('"""First."""\ndef second():\n    """Then."""\n') == "First.\n\nsecond\nThen."
