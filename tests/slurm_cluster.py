"""A Slurm cluster of two nodes on this machine: daemons of its own, in a folder and on ports of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from launches import environment, free_port

COMMANDS = ("slurmctld", "slurmd", "sbatch", "scontrol")
MISSING = [command for command in COMMANDS if shutil.which(command) is None]
NODES = ("127.0.0.1", "127.0.0.2")

CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={controller_port}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
SlurmdTimeout=10
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=127.0.0.[1-2] Port=[{node_ports}] CPUs=4 RealMemory=4000 Gres=gpu:2
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""
# Two files that are always there stand for the devices.
DEVICES = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"


class SlurmCluster:
    """A running cluster; its jobs may run what these tests may.

    Args:
        folder (path): for configuration, state and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = environment() | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            # torchrun is beside the interpreter
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        ports = ",".join(str(free_port()) for _ in NODES)
        values = {"controller_port": free_port(), "node_ports": ports, "user": getpass.getuser(), "folder": self.folder}
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
        (self.folder / "gres.conf").write_text(DEVICES)
        for command in (["slurmctld", "-D", "-c"], *(["slurmd", "-D", "-N", node] for node in NODES)):
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            self._daemons.append(subprocess.Popen(command, env=self.environment, cwd=self.folder, **quiet))
        self.wait(lambda: self.run("sinfo", "-h", "-o", "%T %D") == "idle 2", "the nodes do not start")

    def stop(self) -> None:
        """Leaves no process: jobs and their steps first, which the daemons would leave behind."""
        for daemon in self._daemons:
            daemon.kill()
            daemon.wait()
        left = [process for process in psutil.process_iter() if self._started(process)]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)

    def _started(self, process: psutil.Process) -> bool:
        """By its configuration, or by its folder where its title lies over its environment, as slurmstepd's does."""
        try:
            configuration = process.environ().get("SLURM_CONF")
            return configuration == self.environment["SLURM_CONF"] or Path(process.cwd()).is_relative_to(self.folder)
        except (psutil.Error, OSError):
            return False

    def run(self, *command: str) -> str:
        """What a command of Slurm says; nothing where the controller does not answer yet."""
        done = subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, text=True)
        return done.stdout.strip()

    def submit(self, *arguments: str) -> str:
        """Submits a batch script and returns the number of the job."""
        done = subprocess.run(
            ["sbatch", "--parsable", *arguments], env=self.environment, cwd=self.folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> dict[str, str]:
        """The fields of `scontrol show job`."""
        return dict(field.split("=", 1) for field in self.run("scontrol", "show", "job", job).split() if "=" in field)

    def wait_for(self, job: str, state: str, restarts: int = 0, limit: float = 120.0) -> None:
        """Waits until a job is in a state, after so many restarts."""

        def reached() -> bool:
            found = self.state(job)
            if found["JobState"] == "PENDING":
                # Slurm holds a requeued job back until its old credentials have run out
                self.run("scontrol", "update", f"JobId={job}", "StartTime=now")
            return found["JobState"] == state and int(found["Restarts"]) == restarts

        self.wait(reached, f"job {job} does not come to {state}", limit)

    def wait(self, reached: Callable[[], bool], problem: str, limit: float = 60.0) -> None:
        """Waits until something is so; else fails with the cluster's logs."""
        end = time.monotonic() + limit
        while not reached():
            assert time.monotonic() < end, f"{problem}: {self._logs()}"
            time.sleep(0.1)

    def _logs(self) -> str:
        return "\n".join(file.read_text(errors="replace")[-4000:] for file in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def cluster() -> Iterator[SlurmCluster]:
    """A cluster that is gone afterwards."""
    # not below a test's folder: the path of a Unix socket has at most 108 characters
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        found = SlurmCluster(Path(folder))
        try:
            found.start()
            yield found
        finally:
            found.stop()
