"""A Slurm cluster on this machine: munged, slurmctld, and a slurmd for each of two nodes with a processor each.

Two partitions share the nodes: `preemptible`, whose jobs are requeued, and `urgent`, which preempts them.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from local_stack.processes import Child, free_port, wait_for, wait_until_ready
from tests import programs
from tests.real_worker import own_namespace

PACKAGES = {"munged": "munge", "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm"}
NODES = ("one", "two")
# `cred_expire` is also the time for which a requeued job waits.
CONF = """
ClusterName=kelpie
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdParameters=config_overrides
{nodes}
PartitionName=preemptible Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""


class Slurm:
    """A context manager. `environment` is what programs need to reach it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        if os.geteuid() != 0:
            programs.cannot("Only root may start slurmctld and slurmd.")
        self._programs = {name: programs.find(name, package) for name, package in PACKAGES.items()}
        self._nodes: dict[str, Child] = {}
        self._at_exit = ExitStack()

    def __enter__(self) -> Slurm:
        try:
            self._start()
        except BaseException:
            self._at_exit.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._at_exit.close()

    def _start(self) -> None:
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        nodes = [
            f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={free_port()} CPUs=1"
            for name in NODES
        ]
        (self.folder / "slurm.conf").write_text(
            CONF.format(host=socket.gethostname(), port=free_port(), folder=self.folder, nodes="\n".join(nodes))
        )
        places = ("key-file", "socket", "pid-file", "seed-file")
        options = [f"--{name}={self.folder}/munge.{name.removesuffix('-file')}" for name in places]
        self._run("munged", "--foreground", "--force", *options, until=(self.folder / "munge.socket").exists)
        self._run("slurmctld", "-D", "-i", until=lambda: "is UP" in self.says("scontrol", "ping"))
        for name in NODES:
            self.start_node(name)
        wait_for(lambda: self._idle() == set(NODES), "both nodes to be idle", pause=0.3)

    def _run(self, program: str, *arguments: str, until: Callable[[], bool]) -> None:
        child = self._child(program, [self._programs[program], *arguments])
        self._at_exit.callback(child.kill)
        wait_until_ready(child, until)

    def _child(self, name: str, program: list[str]) -> Child:
        return Child(name, program, folder=self.folder, env={**os.environ, **self.environment})

    def start_node(self, name: str) -> None:
        """A node boots."""
        self._nodes[name] = self._child(name, [*own_namespace(), self._programs["slurmd"], "-D", "-N", name])
        self._at_exit.callback(self._nodes[name].kill)

    def lose_node(self, name: str) -> None:
        """All of its processes end at once with the first one of their namespace, and none reports another's end.

        Slurm is told, for it would take a quarter of a minute to notice.
        """
        self._nodes[name].kill()
        self.says("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=lost")

    def _idle(self) -> set[str]:
        return set(self.says("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split())

    def says(self, *command: str, **environment: str) -> str:
        """What a command of Slurm's prints. Raises CalledProcessError."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **self.environment, **environment},
            capture_output=True,
            text=True,
            check=command[0] != "scontrol",
            timeout=30,
        ).stdout

    def submit(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """The id of the Slurm job."""
        return self.says("sbatch", "--parsable", *arguments, **(environment or {})).strip()

    def jobs(self) -> dict[str, str]:
        """The state of each job that has not ended, by its id; a job of an array is called ARRAY_NUMBER."""
        lines = self.says("squeue", "-h", "-r", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def node_of(self, job: str) -> str:
        return self.says("squeue", "-h", "-r", "-j", job, "-o", "%N").strip()
