"""The commands that start one process of a run: buffer, learner, actor, relay, verifier.

Each takes its part of the command line and the parser of commands that compose a configuration, from `cli.py`. What it needs
is imported after the arguments are read, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import os

from ..common.errors import UserError
from .entry import end_process, exit_code_of, log_to_stderr

MAX_NAME = 200  # characters of the name of an actor or relay


def _checked_name(name: str | None, role: str) -> str:
    """The name of an actor or relay; by default ROLE-HOST-PID. Raises UserError."""
    name = name or f"{role}-{os.uname().nodename}-{os.getpid()}"
    if not name.isprintable() or len(name) > MAX_NAME:
        raise UserError(f"--name {name!r}: expected at most {MAX_NAME} printable characters")
    return name


def buffer(argv: list[str], parser: argparse.ArgumentParser) -> int:
    args = parser.parse_intermixed_args(argv)
    from .recipes import compose
    from .resume_check import check_buffer_resume

    log_to_stderr()
    cfg = compose(args.recipe, args.overrides)
    check_buffer_resume(cfg)
    from ..buffer.main import main as run_buffer

    run_buffer(cfg)
    return 0


def learner(argv: list[str], parser: argparse.ArgumentParser) -> int:
    parser.add_argument(
        "--nodes", type=int, help="several nodes: their number; every node runs this command (Slurm: srun does)"
    )
    parser.add_argument(
        "--node-rank", type=int, default=0, help="this node's number, from 0; rank 0 of the learner is on node 0"
    )
    parser.add_argument("--rendezvous", default="", metavar="HOST:PORT", help="where the nodes meet: an address of node 0")
    args = parser.parse_intermixed_args(argv)
    from .gpus import visible_gpus
    from .model_check import check_model, settle_dtype
    from .nodes import nodes_by_hand, nodes_of_slurm
    from .placement import check_ranks
    from .recipes import compose
    from .resume_check import check_resume
    from .torchrun import launch_ranks
    from .trackers.services import check_trackers

    log_to_stderr()
    by_hand = args.nodes is not None or args.node_rank or args.rendezvous
    nodes = nodes_by_hand(args.nodes or 0, args.node_rank, args.rendezvous) if by_hand else nodes_of_slurm(os.environ)
    cfg = compose(args.recipe, args.overrides)
    check_model(cfg)
    settle_dtype(cfg)
    check_ranks(cfg, len(visible_gpus(os.environ)))
    check_resume(cfg)
    check_trackers(cfg)
    return launch_ranks(cfg, nodes)


def actor(argv: list[str], parser: argparse.ArgumentParser) -> int:
    parser.add_argument("--name", help="unique among the actors of the run (default: actor-HOST-PID, or POOL-HOST-PID)")
    parser.add_argument("--pool", default="", help="the pool of the configuration whose settings this actor has")
    args = parser.parse_intermixed_args(argv)
    from ..common.config.actors import in_pool
    from .model_check import check_model, settle_dtype
    from .recipes import check_pool_overrides, compose

    log_to_stderr()
    cfg = compose(args.recipe, args.overrides)
    settle_dtype(cfg)
    mine = in_pool(cfg, args.pool)
    check_pool_overrides(cfg, args.pool, args.overrides)
    check_model(mine)
    name = _checked_name(args.name, args.pool or "actor")
    if mine.weights.serve:
        from .local.preflight import check_weights_address

        check_weights_address(mine)
    from ..actor.main import main as run_actor

    end_process(exit_code_of("actor", lambda: run_actor(cfg, name, args.pool)))


def relay(argv: list[str], parser: argparse.ArgumentParser) -> int:
    parser.add_argument("--name", help="unique among the clients of the run (default: relay-HOST-PID)")
    args = parser.parse_intermixed_args(argv)
    from .recipes import compose

    log_to_stderr()
    cfg = compose(args.recipe, ["model.path=unused", *args.overrides])
    name = _checked_name(args.name, "relay")
    from ..actor.relay import main as run_relay

    end_process(exit_code_of("relay", lambda: run_relay(cfg, name)))


def verifier(argv: list[str], parser: argparse.ArgumentParser) -> int:
    parser.add_argument("--address", default="tcp://127.0.0.1:5720", help="beyond loopback: with verifiers.keys=FOLDER")
    lines = 'lines of {"verifier", "completion", "answer", "prompt"}; "-": standard input'
    parser.add_argument("--try", dest="file", metavar="FILE", help=f"print a verdict for each line, then end: {lines}")
    args = parser.parse_intermixed_args(argv)
    from .recipes import compose

    log_to_stderr()
    cfg = compose(args.recipe, ["model.path=unused", *args.overrides])
    from .verifier import judge_file, serve_hosts

    return judge_file(cfg.verifiers, args.file) if args.file else serve_hosts(cfg, args.address)
