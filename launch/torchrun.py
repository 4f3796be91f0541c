"""`prolong learner`: torchrun around the learner's ranks, on one node or on each of several (nodes.py).

    prolong learner  --launch()-->  torchrun's agent (this process)  --one per rank-->  python -m prolong.launch.torchrun CONFIG

torchrun's agent is called as a function, not as a command: the command turns every exit code of a rank into 1, and a caller
must be able to tell a mistake of the user (2) from a crash. On one node there are no elastic restarts: the supervisor starts
the whole learner again, which resumes from its newest checkpoint. On several nodes no supervisor sees all of them, so the
agents start all ranks again when one has failed, or when a node that was lost comes back.
SIGTERM, SIGINT and SIGHUP are passed on to the ranks, which drop their step, save and leave; torchrun's own handler would
kill them half a minute later and report a failure.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from ..common.config.run_files import load_config, run_folder, save_config
from ..common.config.sections import Config
from ..common.errors import ProlongError
from ..common.signals import die_with_parent
from .entry import end_process, exit_code_of, log_to_stderr
from .nodes import Nodes, address_towards, check_node_0, interface_of, wait_for_node_0
from .trackers.companions import Companion, companions_beside, companions_of

# the module that every rank runs, with the configuration's path as its argument
RANK_MODULE = "prolong.launch.torchrun"
_AGENT = "PROLONG_AGENT_PID"
# number of this node, where there are several
_NODE = "PROLONG_NODE"
_LEAVE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def launch_ranks(cfg: Config, nodes: Nodes) -> int:
    """Run `launch.learner_ranks` ranks on this node until they end. Returns the exit code of the rank that failed first, or 0.

    Blocks until the ranks of all nodes have ended; before that, `learner.starve_s` at most until all nodes are there.
    Raises: UserError for a rendezvous that cannot work; ProlongError when the nodes do not meet, or lose node 0.
    """
    path = run_folder(cfg) / "config.yaml"
    save_config(cfg, path)
    companions = companions_of(cfg) if nodes.index == 0 else []
    with _pass_signals_on(companions) as received, companions_beside(companions, received):
        # by itself it would take the host's name, which on some machines leads nowhere
        meeting = ["--standalone", "--local-addr", "127.0.0.1"] if nodes.count == 1 else _meet(cfg, nodes)
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.elastic.rendezvous.api import RendezvousError
        from torch.distributed.run import parse_args, run

        os.environ[_AGENT] = str(os.getpid())
        # ranks log to our stderr; by itself it would make a folder for logs in /tmp at every start, and leave it there
        options = ["--signals-to-handle", "SIGQUIT", "--log-dir", os.devnull]
        ranks = ["--nproc-per-node", str(cfg.launch.learner_ranks), "-m", RANK_MODULE, str(path)]
        try:
            run(parse_args([*meeting, *options, *ranks]))
        except ChildFailedError as error:
            code = error.get_first_failure()[1].exitcode
            # a rank that was still importing had nothing to save
            if received and code == -signal.SIGTERM:
                return 0
            return code if code > 0 else 128 - code
        except RendezvousError as error:
            raise ProlongError(
                f"the {nodes.count} nodes do not meet at {nodes.rendezvous} ({error}); start `prolong learner` again on "
                "each of them: the run goes on from its newest checkpoint"
            ) from error
    return 0


def _meet(cfg: Config, nodes: Nodes) -> list[str]:
    """torchrun's arguments for several nodes. Returns once node 0 listens; all ranks will use the network that leads there."""
    address = address_towards(nodes)
    interface = interface_of(address)
    if interface:
        # by themselves both take the network of the host's name
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    if nodes.index == 0:
        check_node_0(nodes, address)
    else:
        wait_for_node_0(nodes, cfg.learner.starve_s)
    os.environ[_NODE] = str(nodes.index)
    # a store for each start of the ranks (learner/ranks.py), not one for all
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    return [
        *("--nnodes", str(nodes.count), "--max-restarts", str(cfg.launch.max_restarts), "--local-addr", address),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", nodes.rendezvous, "--rdzv-id", cfg.run.name),
        *("--rdzv-conf", f"is_host={int(nodes.index == 0)},join_timeout={math.ceil(cfg.learner.starve_s)}"),
    ]


@contextlib.contextmanager
def _pass_signals_on(companions: Sequence[Companion]) -> Iterator[list[int]]:
    """Send SIGTERM to the ranks for each signal that asks this process to leave; without ranks, end with exit code 0.

    Yields the list of signals received so far.
    """
    received: list[int] = []

    def request(number: int, _: object) -> None:
        received.append(number)
        trackers = {companion.pid for companion in companions}
        ranks = [child for child in psutil.Process().children() if child.pid not in trackers]
        for rank in ranks:
            with contextlib.suppress(psutil.NoSuchProcess):
                rank.terminate()
        if not ranks:
            raise SystemExit(0)

    before = {number: signal.signal(number, request) for number in _LEAVE}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_rank(config: str) -> int:
    from ..learner.main import main as run_learner

    run_learner(load_config(Path(config)))
    return 0


def main(argv: list[str]) -> int:
    """One rank. It dies with its agent, so that no rank is left running when the agent is killed."""
    die_with_parent(parent=int(os.environ.get(_AGENT, os.getppid())))
    log_to_stderr()
    if _NODE in os.environ:
        # c10d numbers the nodes by their addresses; rank 0 belongs on node 0, where weights.host and the client's keys are
        os.environ["RANK"] = str(int(os.environ[_NODE]) * int(os.environ["LOCAL_WORLD_SIZE"]) + int(os.environ["LOCAL_RANK"]))
    return exit_code_of("learner", lambda: train_rank(argv[0]))


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
