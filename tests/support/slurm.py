"""A Slurm cluster for tests: munged, slurmctld and one slurmd a host, each on a host of its own (bench/networks.py).

Daemons, keys, state and configuration are the test's own; those that the machine may have are left alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from prolong.bench.networks import Network, end_processes, network, why_no_networks

from tests.support.runs import wait_until

LOGIN = "login"  # the host of slurmctld, from where jobs are submitted
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
CPUS, GPUS = 8, 4  # that each node claims to have


def why_no_slurm() -> str:
    """Why no cluster can be had here; "" if one can."""
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)} here (Debian: slurm-wlm, munge)"
    if os.getuid() != 0:
        return "Slurm's daemons need root"
    return why_no_networks()


CONFIG = """\
ClusterName=test
SlurmctldHost={login}({login_address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldDebug=debug
SlurmdDebug=debug
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,bf_resolution=1,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
KillWait=15
ReturnToService=2
MinJobAge=300
MessageTimeout=100
SlurmctldTimeout=60
SlurmdTimeout=60
NodeName=DEFAULT CPUs={cpus} RealMemory=1000 Gres=gpu:{gpus} State=UNKNOWN
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=60 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""


class SlurmCluster:
    """The cluster, and the commands of a user at its login host."""

    def __init__(self, folder: Path, hosts: Network) -> None:
        self.folder, self.hosts = folder, hosts
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    @property
    def nodes(self) -> list[str]:
        return [name for name in self.hosts.names if name != LOGIN]

    def start(self) -> None:
        nodes = "\n".join(f"NodeName={name} NodeAddr={self.hosts.address(name)}" for name in self.nodes)
        named = {"login": LOGIN, "login_address": self.hosts.address(LOGIN), "folder": self.folder, "cpus": CPUS, "gpus": GPUS}
        known = "".join(f"{self.hosts.address(name)} {name}\n" for name in self.hosts.names)
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{known}")
        (self.folder / "slurm.conf").write_text(CONFIG.format(**named, nodes=nodes))
        devices = [self.folder / f"gpu{number}" for number in range(GPUS)]
        for device in devices:
            os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        (self.folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in devices))
        for folder in ("state", *(f"spool-{node}" for node in self.nodes)):
            (self.folder / folder).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        files["log-file"] = "munge.log"
        options = [f"--{name}={self.folder / file}" for name, file in files.items()]
        self._run(LOGIN, "munged", "--foreground", "--force", *options)
        wait_until("munged", (self.folder / "munge.socket").exists, 90)
        self._run(LOGIN, "slurmctld", "-D")
        for node in self.nodes:
            self._run(node, "slurmd", "-D", "-N", node)
        wait_until("all nodes", self._all_idle, 150)

    def stop(self) -> None:
        """End the daemons and, of a test that failed, the jobs and their steps: all that runs on the hosts."""
        for host in self.hosts.names:
            end_processes(self.hosts.namespace(host))
        for daemon in self._daemons:
            daemon.wait(60)

    def command(self, *words: str, timeout_s: float = 150) -> str:
        """The output of a command at the login host."""
        line = [*self.hosts.within(LOGIN), *words]
        done = subprocess.run(line, env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start_again(self, job: str) -> None:
        """Let a requeued job, all of whose components wait, start soon: without this, two minutes after its end.

        Not at once: nodes refuse a job in the second in which they revoked its credential, and it fails.
        """
        for component in self.command("squeue", "--noheader", f"--job={job}", "--format=%A").split():
            self.command("scontrol", "update", f"JobId={component}", "StartTime=now+3")

    def _run(self, host: str, *words: str) -> None:
        with (self.folder / f"{words[0]}-{host}.out").open("wb") as out:
            # `ip netns exec` would hide the control groups, which slurmd wants to see
            inside = ["nsenter", f"--net=/run/netns/{self.hosts.namespace(host)}", *self.hosts.within(host)[4:]]
            known = ["unshare", "--mount", "sh", "-c", f'mount --bind {self.folder}/hosts /etc/hosts && exec "$@"', "sh"]
            line = [*inside, *known, *words]
            self._daemons.append(subprocess.Popen(line, env=self.environment, stdout=out, stderr=out, start_new_session=True))

    def _all_idle(self) -> bool:
        ended = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
        if ended:
            raise RuntimeError(f"{ended}\n" + "\n".join(path.read_text() for path in self.folder.glob("*.out")))
        with contextlib.suppress(AssertionError):
            states = self.command("sinfo", "--noheader", "--Node", "--partition=low", "--format=%t").split()
            return states == ["idle"] * len(self.nodes)
        return False


@contextlib.contextmanager
def slurm_cluster(folder: Path, *nodes: str) -> Iterator[SlurmCluster]:
    with network(LOGIN, *nodes) as hosts:
        cluster = SlurmCluster(folder, hosts)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
