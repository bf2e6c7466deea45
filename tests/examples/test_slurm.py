"""`examples/slurm.sh` on a real Slurm: preempted, stopped at its time limit, requeued, and the same rows in the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from launches import ROOT, finished_chunks, parquet, result, scored_by_the_command
from slurm_cluster import MISSING, SlurmCluster, cluster

from ladm_hf import run_status

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs Slurm (apt-get install slurm-wlm): no {MISSING}")

SCRIPT = ROOT / "examples" / "slurm.sh"
# Documents that take a while, so that a job is caught at work.
COUNT, WORDS, CHUNKS = 48, 1800, 24
OPTIONS = ["--chunks", str(CHUNKS), "--span-length", "16", "--max-length", "2048"]


@pytest.fixture
def slurm() -> Iterator[SlurmCluster]:
    with cluster() as found:
        yield found


def wait_for_chunks(slurm: SlurmCluster, output: Path, count: int) -> None:
    slurm.wait(lambda: finished_chunks(output) >= count, "the job makes no progress", limit=120)


@pytest.mark.timeout(600)
def test_a_job_that_is_preempted_and_meets_its_time_limit_goes_on(slurm: SlurmCluster, tmp_path: Path) -> None:
    source, out = parquet(tmp_path / "in.parquet", COUNT, words=WORDS), tmp_path / "out"
    small = ["--nodes=2", "--gpus-per-node=1", "--cpus-per-task=2", "--time=60"]
    job = slurm.submit(*small, str(SCRIPT), str(source), str(out), *OPTIONS)
    wait_for_chunks(slurm, out, 2)
    other = slurm.submit("--partition=high", "--nodes=2", "--cpus-per-task=4", "--wrap", "srun sleep 1")
    slurm.wait_for(other, "COMPLETED")
    preempted = finished_chunks(out)

    slurm.wait_for(job, "RUNNING", restarts=1)
    wait_for_chunks(slurm, out, preempted + 2)
    # as Slurm does two minutes before the end of the time limit
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    slurm.wait_for(job, "COMPLETED", restarts=2)

    assert result(out) == result(scored_by_the_command(source, tmp_path / "uninterrupted", *OPTIONS))
    assert set(run_status(out).ranks) == {0, 1}
    said = (slurm.folder / f"ladm-{job}.log").read_text()
    assert said.count("resuming with") == 2
    # the rows of no finished chunk were scored twice
    logs = [file.read_text() for file in (out / "logs").glob("rank-*.log")]
    assert sum(log.count(" finished: {") for log in logs) == CHUNKS
