"""What runs inside a Slurm job: the supervisor of a run whose processes are steps, or an actor that joins a run of another job.

    job.sbatch          address     this node's address, as other nodes reach it
                        supervise   buffer here, learner and actors by srun, as the lines on standard input say
    join-POOL.sbatch    join        an actor, at the address that the run's buffer has now, as long as the run lasts

SIGUSR1 comes to this process alone, before the time limit or before a preemption: all processes leave in order, and the job
goes back to the queue. SIGTERM comes to every process of the job, which is over then, or was requeued by Slurm.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import monotonic

from ...common.config.run_files import RunPaths, load_config, run_paths
from ...common.config.sections import Config
from ...common.config.stages import total_steps
from ...common.errors import ProlongError, UserError
from ...common.signals import StopRequest, stop_on_signals
from ...common.transport.sockets import is_loopback
from ..entry import exit_code_of, log_to_stderr
from ..local.live import last_step
from ..local.preflight import finished_steps
from ..local.process import ChildProcess
from ..local.supervisor import HEALTHY_S, SIGNALLED, USER_ERROR, RunOutcome, Supervisor, restart_delay_s
from ..local.train import locked_run, report_outcome, set_aside_summary
from ..nodes import Nodes, address_towards, first_host
from ..status import buffer_note
from .held_task import MODULE as HELD_TASK

MODULE = "prolong.launch.jobs.slurm_job"
SCONTROL_S = 60.0
JOIN_S = 600.0  # an actor waits so long for a buffer, on resources that others may want
POLL_S = 1.0
LEAVE_S = 45.0  # for an actor that joined; Slurm gives 60 s and more before the time limit, and KillWait after SIGTERM


def supervise_steps(config: Path, lines: Iterable[str]) -> int:
    """Run buffer, learner and actors, of which each line has name and command, until the run ends. Returns the exit code.

    Blocks on the supervisor. Raises: UserError.
    """
    cfg = load_config(config)
    paths = run_paths(cfg)
    if _is_over(config, paths):
        sys.stdout.write(f"{paths.folder} holds the finished run\n")
        return 0
    with locked_run(paths):
        set_aside_summary(paths)
        outcome, requeue = asyncio.run(_supervise(cfg, paths, _steps(paths, lines)))
    code = report_outcome(outcome, paths, "prolong launch", resume=f"sbatch {shlex.quote(str(config.parent / 'job.sbatch'))}")
    if requeue and code:
        _requeue()
    return code


def _steps(paths: RunPaths, lines: Iterable[str]) -> list[ChildProcess]:
    """A process for each line `NAME: COMMAND`. Those that srun runs leave at the end of their standard input."""
    steps = []
    for line in lines:
        name, _, command = line.partition(":")
        words, log = shlex.split(command), paths.logs / f"{name}.log"
        if words:
            steps.append(ChildProcess(name, words, env=os.environ, log=log, held=HELD_TASK in words))
    return steps


async def _supervise(cfg: Config, paths: RunPaths, steps: list[ChildProcess]) -> tuple[RunOutcome, bool]:
    """How the run ended, and whether the job is to be requeued."""
    supervisor = Supervisor(
        steps,
        leader="learner",
        last="buffer",
        limits=cfg.launch,
        finished=paths.summary.exists,
        note=_say,
        step=lambda: last_step(paths.metrics),
    )
    asked: list[int] = []

    def requeue() -> None:
        asked.append(signal.SIGUSR1)
        supervisor.fail("SIGUSR1: the job's time is over", code=SIGNALLED + signal.SIGUSR1)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, requeue)
    return await supervisor.run(), bool(asked)


def join_run(config: Path, command: list[str]) -> int:
    """Run an actor at the buffer's address, and again at the next one, until the run has ended or a signal came; the exit code.

    Raises: ProlongError when no buffer comes within JOIN_S, or the actor fails more than `launch.max_restarts` times in a row.
    """
    cfg = load_config(config)
    paths, stop, asked, failures = run_paths(cfg), StopRequest(), [], 0
    signal.signal(signal.SIGUSR1, lambda number, _: (asked.append(number), stop.set()))
    with stop_on_signals(stop, "the actor leaves"):
        while not stop.is_set() and not _is_over(config, paths):
            address = _wait_for_buffer(config, paths, stop)
            began = monotonic()
            code = _run_actor([*command, f"buffer.address={address}"], stop, asked) if address else 0
            if code == USER_ERROR:
                return code
            failures = 0 if code == 0 or monotonic() - began > HEALTHY_S else failures + 1
            if failures > cfg.launch.max_restarts:
                raise ProlongError(f"the actor failed {failures} times in a row, the last time with exit code {code}")
            stop.wait(restart_delay_s(failures))
    if asked:
        _requeue()
    return 0


def _run_actor(command: list[str], stop: threading.Event, asked: list[int]) -> int:
    """The exit code of the actor, which got the SIGTERM that came here too. SIGUSR1 did not: it is passed on as SIGTERM."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while not stop.is_set():
        try:
            return child.wait(POLL_S)
        except subprocess.TimeoutExpired:
            continue
    if asked:
        child.terminate()
    try:
        return child.wait(LEAVE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _wait_for_buffer(config: Path, paths: RunPaths, stop: threading.Event) -> str:
    """The address of the buffer, which runs in another job; "" once `stop` is set or the run has ended."""
    deadline = monotonic() + JOIN_S
    while not stop.is_set() and not _is_over(config, paths):
        if paths.buffer.exists() and (note := buffer_note(paths)) is not None:
            return note.address
        if monotonic() > deadline:
            raise ProlongError(f"no buffer in {paths.folder} for {JOIN_S:g} s: submit this job again when the run is there")
        stop.wait(POLL_S)
    return ""


def _is_over(config: Path, paths: RunPaths) -> bool:
    """Whether the run has ended with all steps of the configuration, which may be another one by now."""
    steps = finished_steps(paths)
    return steps is not None and steps >= total_steps(load_config(config))


def own_address(environ: Mapping[str, str]) -> str:
    """The address of this node for others: that of its name in Slurm, or that of the way to another node of the job.

    Raises: UserError when all that can be found is loopback.
    """
    node = environ["SLURMD_NODENAME"]
    shown = re.search(r"\bNodeAddr=(\S+)", _scontrol("show", "node", "--oneliner", node))
    try:
        address = str(socket.getaddrinfo(shown[1] if shown else node, None, family=socket.AF_INET)[0][4][0])
    except OSError:
        address = "127.0.0.1"
    others = [first_host(nodes) for name, nodes in environ.items() if name.startswith("SLURM_JOB_NODELIST_HET_GROUP_")]
    for other in [*others, environ.get("SLURM_SUBMIT_HOST", "")]:
        if is_loopback(address) and other not in ("", node):
            address = address_towards(Nodes(host=other, port=1))
    if is_loopback(address):
        raise UserError(
            f"node {node} has the address {address}, which no other node reaches: give buffer.address=tcp://HOST:PORT"
        )
    return address


def _requeue() -> None:
    """Put this job, with all its components, back into the queue. Slurm ends what is left of it."""
    sys.stdout.flush()
    _scontrol("requeue", os.environ["SLURM_JOB_ID"])


def _scontrol(*words: str) -> str:
    try:
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=SCONTROL_S, check=True)
    except subprocess.CalledProcessError as error:
        raise ProlongError(f"scontrol {' '.join(words)}: {error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProlongError(f"scontrol {' '.join(words)}: {error}") from error
    return done.stdout


def _say(note: str) -> None:
    print(f"! {note}", flush=True)


def _work(argv: list[str]) -> int:
    match argv:
        case ["address"]:
            print(own_address(os.environ))
            return 0
        case ["supervise", config]:
            return supervise_steps(Path(config), sys.stdin)
        case ["join", config, *command]:
            return join_run(Path(config), command)
    raise UserError(f"{MODULE} {' '.join(argv)}: expected address, supervise CONFIG or join CONFIG COMMAND...")


if __name__ == "__main__":
    log_to_stderr()
    raise SystemExit(exit_code_of("launch", lambda: _work(sys.argv[1:])))
