# /// script
# requires-python = ">=3.11"
# dependencies = ["huggingface_hub>=0.34"]
# ///
"""Publishes the metric's folder as a Space, so that `evaluate.load("you/ladm")` and the app work from the Hub.

    uv run hub_scripts/publish-metric.py you/ladm
    uv run hub_scripts/publish-metric.py you/ladm --wheel dist/ladm_hf-0.2.0-py3-none-any.whl --create-pr

The Space installs `ladm-hf` from PyPI; with `--wheel` it installs that file, which is uploaded beside the app. The
token is the one of `hf auth login` or HF_TOKEN.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

FOLDER = Path(__file__).parents[1] / "metrics" / "ladm"
PACKAGE = "ladm-hf"


def space_files(folder: Path, repo_id: str, wheel: Path | None, endpoint: str) -> dict[str, bytes]:
    """Contents of the Space by path."""
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    if wheel is not None:
        url = f"{endpoint}/spaces/{repo_id}/resolve/main/{wheel.name}"
        lines = files["requirements.txt"].decode().splitlines()
        lines = [f"{PACKAGE} @ {url}" if line.startswith(PACKAGE) else line for line in lines]
        files["requirements.txt"] = ("\n".join(lines) + "\n").encode()
        files[wheel.name] = wheel.read_bytes()
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repo_id", metavar="SPACE", help="owner/name; the name must be 'ladm', as the module is")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="the metric's folder (default: metrics/ladm)")
    parser.add_argument("--wheel", type=Path, help="a wheel of ladm-hf to install instead of the one on PyPI")
    parser.add_argument("--private", action="store_true", help="create the Space as a private one")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of a commit")
    parser.add_argument("--dry-run", action="store_true", help="list what would be uploaded and stop")
    options = parser.parse_args()
    if options.repo_id.split("/")[-1] != "ladm" or options.repo_id.count("/") != 1:
        parser.error(f"SPACE must be 'owner/ladm', got {options.repo_id!r}: evaluate looks for NAME.py in owner/NAME")
    missing = [name for name in ("ladm.py", "README.md", "app.py") if not (options.folder / name).is_file()]
    if missing:
        parser.error(f"{options.folder} has no {missing[0]}: --folder must be the metric's folder")
    if options.wheel is not None and not options.wheel.is_file():
        parser.error(f"there is no wheel {options.wheel}: make one with `python -m build --wheel`")
    if options.wheel is not None and options.private:
        parser.error(
            "a wheel in a private Space cannot be read without a token, so it would not install: leave one out"
        )

    api = HfApi()
    files = space_files(options.folder, options.repo_id, options.wheel, api.endpoint)
    if options.dry_run:
        for name, content in files.items():
            print(f"{len(content):>12,}  {name}")
        return
    try:
        api.create_repo(
            options.repo_id, repo_type="space", space_sdk="gradio", private=options.private or None, exist_ok=True
        )
        commit = api.create_commit(
            options.repo_id,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message="Publish the LADM metric",
            repo_type="space",
            create_pr=options.create_pr,
        )
        listed = set(api.list_repo_files(options.repo_id, repo_type="space", revision=commit.oid))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            sys.exit(
                f"error: the Hub refuses access to the Space {options.repo_id} ({status}): log in with "
                "`hf auth login` or set HF_TOKEN to a token with write access"
            )
        sys.exit(f"error: the Hub did not take the Space {options.repo_id}: {error}")
    absent = sorted(set(files) - listed)
    if absent:
        sys.exit(f"error: the commit went through but {absent[0]} is not in it: run the script again")
    print(commit.pr_url or f"{api.endpoint}/spaces/{options.repo_id}")


if __name__ == "__main__":
    main()
