"""Whether two GPUs of this machine can talk through NCCL, in two child processes with a deadline.

Each child sees one GPU, as learner and actors do: a machine whose GPUs cannot reach each other hangs in the first collective,
or is slow. The same pair talks through gloo on a CPU, for tests.

    measure_pair --starts--> python -m prolong.launch.pair_check RANK FILE BACKEND (twice) --seconds of an all-reduce-->
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from time import monotonic, perf_counter

PAIR_S = 90.0  # for both children: the import of torch, CUDA, the meeting, the transfers
PAIR_BYTES = 64 << 20
_REPEATS = 3
_CHILD = "prolong.launch.pair_check"


def measure_pair(left: str, right: str, *, backend: str = "nccl", deadline_s: float = PAIR_S) -> float | str:
    """Seconds of an all-reduce of PAIR_BYTES between two GPUs, by their names in CUDA_VISIBLE_DEVICES; or what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        children = [
            subprocess.Popen(
                [sys.executable, "-m", _CHILD, str(rank), store, backend],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"CUDA_VISIBLE_DEVICES": gpu},
            )
            for rank, gpu in enumerate((left, right))
        ]
        try:
            return _outcome(children, monotonic() + deadline_s, deadline_s)
        finally:
            for child in children:
                child.kill()
                child.communicate()


def _outcome(children: list[subprocess.Popen[str]], deadline: float, deadline_s: float) -> float | str:
    seconds = 0.0
    for child in children:
        try:
            printed, complaint = child.communicate(timeout=max(deadline - monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            return f"no answer within {deadline_s:g} s"
        if child.returncode != 0:
            return complaint.strip().rpartition("\n")[2] or f"exit code {child.returncode}"
        seconds = max(seconds, float(printed.strip().rpartition("\n")[2]))
    return seconds


def main(argv: list[str]) -> int:
    """A child: meet the other one, reduce, print the seconds of the fastest of some repetitions."""
    import torch
    from torch import distributed as dist

    rank, store, backend = int(argv[0]), argv[1], argv[2]
    device = torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")
    # torch's types do not list its stores
    meeting = dist.FileStore(store, 2)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group(backend, store=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=PAIR_S))
    values = torch.ones(PAIR_BYTES // 4, device=device)
    fastest = float("inf")
    for _ in range(_REPEATS):
        started = perf_counter()
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
        if not bool((values[:: PAIR_BYTES // 64] == 1.0).all()):
            raise RuntimeError("the other GPU sent other numbers")
        fastest = min(fastest, perf_counter() - started)
    sys.stdout.write(f"{fastest}\n")
    sys.stdout.flush()
    # a communicator that is taken down may wait for a peer that is gone
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
