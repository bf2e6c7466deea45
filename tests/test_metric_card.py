"""The metric's folder: its card, its requirements, and the script that publishes it."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from ladm_hf import __version__

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "metrics" / "ladm"
CARD = (FOLDER / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", CARD, flags=re.DOTALL)


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_front_matter_describes_a_gradio_space() -> None:
    data = yaml.safe_load(CARD.split("---")[1])
    assert data["sdk"] == "gradio"
    assert (FOLDER / data["app_file"]).is_file()
    assert {"evaluate", "metric"} <= set(data["tags"])
    assert f"gradio=={data['sdk_version']}" in requirements()
    assert data["license"] == "apache-2.0"
    assert data["pinned"] is False
    # the Hub shows no more
    assert len(data["short_description"]) <= 60


def test_the_space_installs_the_versions_that_are_tested() -> None:
    tested = (ROOT / "constraints.txt").read_text().split()
    assert f"ladm-hf=={__version__}" in requirements()
    assert [line for line in requirements() if not line.startswith("ladm-hf") and line not in tested] == []


def test_the_card_has_the_familys_sections() -> None:
    headings = re.findall(r"^#+ (.*)", CARD, flags=re.MULTILINE)
    assert headings[:2] == ["Metric Card for LADM", "Metric Description"]
    assert {
        "How to Use", "Inputs", "Output Values", "Values from Popular Papers", "Examples", "Limitations and Bias",
        "Citation", "Further References",
    } < set(headings)  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_of_the_card_run(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import evaluate

    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path))
    exec(compile(example, "README.md", "exec"), {"__name__": "example"})
    printed = capsys.readouterr().out
    for expected in re.findall(r"  # (.*)", example):
        assert expected in printed
    assert printed


def requirements() -> list[str]:
    lines = (FOLDER / "requirements.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith(("#", "--"))]


def test_requirements_name_everything_that_is_imported() -> None:
    named = {re.split(r"[<>=@]", line)[0].replace("-", "_") for line in requirements()}
    named |= {path.stem for path in FOLDER.glob("*.py")}
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.split(".")[0]
                assert top in named or top in sys.stdlib_module_names, f"{path.name} imports {top}"


def test_the_reference_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = load(FOLDER / "make_reference.py", "make_reference")
    monkeypatch.setattr(maker, "LENGTHS", (2400,))
    monkeypatch.setattr(maker, "DOCUMENTS", 2)
    monkeypatch.setattr(sys, "argv", ["make_reference.py", "--output", str(tmp_path / "reference.json")])
    maker.main()
    made, committed = (yaml.safe_load((path / "reference.json").read_text()) for path in (tmp_path, FOLDER))
    assert made.keys() == committed.keys()
    assert made["model"] == committed["model"]
    assert [len(made["groups"][0][kind]) for kind in ("natural", "spliced")] == [2, 2]
    assert all(group.keys() == made["groups"][0].keys() for group in committed["groups"])


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The publishing script, with a Hub that only writes down what it is told."""
    script = load(ROOT / "hub_scripts" / "publish-metric.py", "publish_metric")
    calls = SimpleNamespace(created=None, files={}, options={}, lost=[])

    def create_repo(self: HfApi, repo_id: str, **options: Any) -> None:
        calls.created = (repo_id, options)

    def create_commit(self: HfApi, repo_id: str, operations: Any, **options: Any) -> SimpleNamespace:
        calls.files = {operation.path_in_repo: operation.path_or_fileobj for operation in operations}
        calls.options = options
        return SimpleNamespace(oid="1", pr_url="the pull request" if options["create_pr"] else None)

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    monkeypatch.setattr(HfApi, "list_repo_files", lambda *args, **kwargs: set(calls.files) - set(calls.lost))

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["publish-metric.py", *arguments])
        script.main()

    return SimpleNamespace(run=run, calls=calls)


def test_publishing_uploads_the_folder_as_a_space(publish: SimpleNamespace, capsys: Any) -> None:
    publish.run("someone/ladm")
    repo_id, options = publish.calls.created
    assert repo_id == "someone/ladm"
    assert (options["repo_type"], options["space_sdk"]) == ("space", "gradio")
    assert {"ladm.py", "README.md", "app.py", "requirements.txt", "reference.json"} <= set(publish.calls.files)
    assert publish.calls.files["ladm.py"] == (FOLDER / "ladm.py").read_bytes()
    assert capsys.readouterr().out.endswith("/spaces/someone/ladm\n")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_publishing_says_how_to_log_in(publish: SimpleNamespace, monkeypatch, status: int) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        response = httpx.Response(status, request=httpx.Request("POST", "http://localhost/x"))
        raise HfHubHTTPError("no", response=response)

    monkeypatch.setattr(HfApi, "create_commit", refuse)
    with pytest.raises(SystemExit, match=rf"someone/ladm \({status}\): log in with `hf auth login` or set HF_TOKEN"):
        publish.run("someone/ladm")


def test_publishing_with_a_wheel_installs_that_wheel(publish: SimpleNamespace, tmp_path: Path, capsys: Any) -> None:
    wheel = tmp_path / "ladm_hf-9-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    publish.run("someone/ladm", "--wheel", str(wheel), "--create-pr")
    lines = publish.calls.files["requirements.txt"].decode().splitlines()
    before = (FOLDER / "requirements.txt").read_text().splitlines()
    (changed,) = (line for line in lines if line not in before)
    assert changed.startswith("ladm-hf @ https://")
    assert changed.endswith("/spaces/someone/ladm/resolve/main/ladm_hf-9-py3-none-any.whl")
    assert [line for line in before if not line.startswith("ladm-hf")] == [line for line in lines if line != changed]
    assert publish.calls.files[wheel.name] == b"wheel"
    assert capsys.readouterr().out == "the pull request\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["someone/other"], "must be 'owner/ladm'"),
        (["ladm"], "must be 'owner/ladm'"),
        (["someone/ladm", "--folder", "nowhere"], "nowhere has no ladm.py"),
        (["someone/ladm", "--wheel", "nothing.whl"], "there is no wheel nothing.whl"),
        (["someone/ladm", "--wheel", __file__, "--private"], "cannot be read without a token"),
    ],
)
def test_publishing_refuses_what_cannot_work(
    publish: SimpleNamespace, arguments: list[str], message: str, capsys: Any
) -> None:
    with pytest.raises(SystemExit):
        publish.run(*arguments)
    assert message in capsys.readouterr().err
    assert publish.calls.created is None


def test_publishing_reports_what_the_hub_lost(publish: SimpleNamespace) -> None:
    publish.calls.lost = ["app.py"]
    with pytest.raises(SystemExit, match=r"app\.py is not in it"):
        publish.run("someone/ladm")


def test_publishing_reports_the_hubs_refusal(publish: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(SystemExit, match="did not take the Space someone/ladm: no route"):
        publish.run("someone/ladm")


def test_a_dry_run_lists_the_files_and_sends_nothing() -> None:
    script = ROOT / "hub_scripts" / "publish-metric.py"
    run = subprocess.run(
        [sys.executable, str(script), "someone/ladm", "--dry-run"], capture_output=True, text=True, check=True
    )
    assert "ladm.py" in run.stdout
    assert len(script.read_text().splitlines()) <= 120
