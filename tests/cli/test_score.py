"""`ladm score` on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import ROOT

from ladm_hf.runs.folder import RunFolder
from ladm_hf.runs.lock import RunLock


def test_a_second_launch_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    lock = RunLock(RunFolder(tmp_path))
    lock.acquire()
    program = (
        "import sys, runpy\n"
        f"sys.argv = ['ladm', 'score', 'documents.parquet', {str(tmp_path)!r}]\n"
        "try: runpy.run_module('ladm_hf', run_name='__main__')\n"
        "except SystemExit as error: sys.exit(10 * ('torch' in sys.modules) + error.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    lock.release()
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: another launch is writing {tmp_path}: process ")
    assert len(done.stderr.splitlines()) == 1
