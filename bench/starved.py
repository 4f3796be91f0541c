"""Five runs that starve in five ways: does the diagnosis name the cause, and does the move gain what it predicted?

    actors      one actor with little room               move: twice the actors
    learner     long steps                               move: a learner that is twice as fast
    staleness   eta 0                                    move: the eta that the diagnosis names
    verifiers   one worker that takes long               move: two workers
    weights     versions that take seconds to arrive     move: half of that

Buffer, actors and verifier workers are the real processes; engines and learner sleep (sleeping_engine.py, sleeping_learner.py),
so that a cause is what it is said to be on any machine whose cores are not all taken. Each run is diagnosed from its folder,
the move of its verdict is made, and the run is repeated: the measured gain beside the predicted one.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
from tokenizers import Tokenizer, models

from ..common.config.run_files import save_config
from ..launch.diagnosis.diagnose import diagnose
from ..launch.diagnosis.diagnosis import Diagnosis, Improvement
from ..launch.diagnosis.run_records import read_run
from ..launch.recipes import compose
from .measure import report
from .pipeline import free_port
from .sleeping_engine import EngineDevice
from .sleeping_learner import LearnerSpeed

END_S = 30.0  # until the processes of a run that ended are gone
LONGEST_STEP_S = 60.0
PROMPTS = 64
_composing = threading.Lock()  # Hydra composes one configuration at a time
ENGINE = EngineDevice(
    step_base_s=0.020, step_per_rollout_s=2.5e-4, publish_s=0.05, pause_s=0.02, tokens_mean=40, tokens_spread=0.4
)
LEARNER = LearnerSpeed(base_s=0.15, per_token_s=8e-5)


@dataclass(frozen=True, kw_only=True, slots=True)
class StarvedDevices:
    """What a run is made of."""

    actors: int = 2
    capacity: int = 32  # rollouts at once of each
    engine: EngineDevice = ENGINE
    learner: LearnerSpeed = LEARNER
    verdict_s: float = 0.001
    workers: int = 1  # that judge, of each actor
    eta: int = 2

    def slower_learner(self, factor: float) -> StarvedDevices:
        """The same with a learner whose steps take this many times as long."""
        base_s, per_token_s = self.learner.base_s * factor, self.learner.per_token_s * factor
        return replace(self, learner=LearnerSpeed(base_s=base_s, per_token_s=per_token_s))

    def slower_weights(self, factor: float) -> StarvedDevices:
        """The same with weights that take this many times as long."""
        engine = self.engine
        slower = {"publish_s": engine.publish_s * factor, "pause_s": engine.pause_s * factor}
        return replace(self, engine=msgspec.structs.replace(engine, **slower))

    def with_setting(self, setting: str) -> StarvedDevices:
        """The same with one setting as a diagnosis names it."""
        key, _, value = setting.partition("=")
        return replace(self, **{FIELDS[key]: int(value)})


FIELDS = {"launch.actors": "actors", "buffer.eta": "eta", "verifiers.workers": "workers"}
HEALTHY = StarvedDevices()
STARVED = {
    "actors": replace(HEALTHY, actors=1, capacity=16),
    "learner": replace(HEALTHY, eta=3).slower_learner(8.0),
    "staleness": replace(HEALTHY, eta=0).slower_learner(2.0),
    "verifiers": replace(HEALTHY, actors=1, verdict_s=0.08),
    "weights": replace(HEALTHY, eta=1, engine=msgspec.structs.replace(HEALTHY.engine, publish_s=4.0)),
}


def made(devices: StarvedDevices, move: Improvement) -> StarvedDevices:
    """The run with the move that a diagnosis proposes."""
    if move.part == "learner":
        return devices.slower_learner(0.5)
    if move.part == "weights":
        return devices.slower_weights(0.5)
    for setting in move.settings:
        devices = devices.with_setting(setting)
    return devices


def run_sleeping(folder: Path, devices: StarvedDevices, steps: int) -> Path:
    """One run from its start to its end, in an empty folder.

    Raises: RuntimeError when its learner fails, TimeoutExpired when it does not end.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write_data(folder, devices)
    with _composing:
        cfg = compose("", [*_settings(folder, devices), f"run.steps={steps}"])
    save_config(cfg, folder / "config.yaml")
    engine, learner = (msgspec.json.encode(part).decode() for part in (devices.engine, devices.learner))
    python = [sys.executable, "-m"]
    commands = {"buffer": [*python, "prolong.launch.cli", "buffer", "--recipe", str((folder / "config.yaml").absolute())]}
    for index in range(devices.actors):
        commands[f"actor-{index}"] = [*python, "prolong.bench.sleeping_engine", str(folder), f"actor-{index}", engine]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for name, command in commands.items():
            with (folder / f"{name}.log").open("wb") as log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        with (folder / "learner.log").open("wb") as log:
            command = [*python, "prolong.bench.sleeping_learner", str(folder), learner]
            deadline_s = END_S + steps * LONGEST_STEP_S
            code = subprocess.run(command, stdout=log, stderr=log, check=False, timeout=deadline_s).returncode
        if code != 0:
            raise RuntimeError(f"{folder}: the learner ended with {code}\n{(folder / 'learner.log').read_text()[-2000:]}")
        for process in processes:
            process.wait(END_S)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return folder


def _settings(folder: Path, devices: StarvedDevices) -> list[str]:
    return [
        f"run.root={folder.parent}",
        f"run.name={folder.name}",
        f"model.path={folder / 'model'}",
        "model.max_context=256",
        "model.device=cpu",
        f"data.train=[{{file: {folder / 'prompts.jsonl'}}}]",
        "data.heldout=[]",
        "validation.every=0",
        f"buffer.address=tcp://127.0.0.1:{free_port()}",
        f"buffer.eta={devices.eta}",
        "buffer.batch_groups=8",
        "buffer.dynamic_sampling=false",
        "buffer.keep_history=true",
        "buffer.heartbeat_s=0.5",
        "sampling.n=4",
        "sampling.max_tokens=200",
        f"actor.capacity={devices.capacity}",
        f"launch.actors={devices.actors}",
        f"verifiers.workers={devices.workers}",
        "verifiers.own={sleeping: 'prolong.bench.slow_verdict:judge_slowly'}",
    ]


def _write_data(folder: Path, devices: StarvedDevices) -> None:
    """A tokenizer of four words, and prompts for the verifier that sleeps."""
    model = folder / "model"
    model.mkdir()
    Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "a": 2, "b": 3}, unk_token="<unk>")).save(str(model / "tokenizer.json"))
    answer = {"seconds": devices.verdict_s}
    prompts = [
        {"prompt": "a", "domain": "math", "task": "sleeping", "verifier": "sleeping", "answer": answer, "uid": f"p/{number}"}
        for number in range(PROMPTS)
    ]
    (folder / "prompts.jsonl").write_bytes(b"".join(msgspec.json.encode(prompt) + b"\n" for prompt in prompts))


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One cause: what the diagnosis said, and what came of its move."""

    cause: str
    named: str  # the part that the diagnosis says binds
    move: str
    steps_per_s: float
    simulated_steps_per_s: float
    predicted_gain: float
    measured_gain: float
    best_move: str  # of all: the part that it relieves, and its gain

    @property
    def error(self) -> float:
        """Of the predicted gain, relative to the measured one."""
        return self.predicted_gain / self.measured_gain - 1


def starve(cause: str, root: Path, steps: int, *, best: bool = False) -> Compared:
    """Starve, diagnose, make the move of the part that was named, or the `best` of all, and measure again."""
    devices = STARVED[cause]
    before = run_sleeping(root / cause, devices, steps)
    said = diagnose(before, cores=0.0)
    move = said.moves[0] if best and said.moves else move_of(said)
    after = run_sleeping(root / f"{cause}-after", made(devices, move), steps)
    rates = [read_run(folder).steps_per_s for folder in (before, after)]
    return Compared(
        cause=cause,
        named="" if said.roof is None else said.roof.part,
        move=move.words,
        steps_per_s=rates[0],
        simulated_steps_per_s=said.simulated_steps_per_s,
        predicted_gain=move.gain,
        measured_gain=rates[1] / rates[0],
        best_move=f"{said.moves[0].part} {said.moves[0].gain:.2f}",
    )


def move_of(said: Diagnosis) -> Improvement:
    """The best move for the part that binds. Raises RuntimeError when nothing was predicted."""
    if said.roof is None or not said.moves:
        raise RuntimeError(f"no move was predicted: {said.no_moves}")
    part = said.roof.part
    return next(move for move in said.moves if move.part == part and (part in ("learner", "weights") or move.settings))


def table_of(rows: Sequence[Compared]) -> str:
    """A line for each cause."""
    titles = f"{'cause':10s} {'named':10s} {'steps/s':>8s} {'simulated':>9s} {'gain':>6s} {'predicted':>9s} {'error':>7s}"
    lines = [
        f"{row.cause:10s} {row.named:10s} {row.steps_per_s:8.3f} {row.simulated_steps_per_s:9.3f} {row.measured_gain:6.2f} "
        f"{row.predicted_gain:9.2f} {row.error:+7.1%}  {row.move}; best of all: {row.best_move}"
        for row in rows
    ]
    return "\n".join([f"{titles}  move", *lines])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="prolong bench starved", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--root", type=Path, default=Path("runs/bench-starved"))
    parser.add_argument("--only", choices=sorted(STARVED), action="append", help="this cause; may be given several times")
    parser.add_argument("--best", action="store_true", help="make the move with the largest gain, whatever part it relieves")
    parser.add_argument("--jobs", type=int, default=1, help="causes at a time")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    with ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(partial(starve, root=args.root, steps=args.steps, best=args.best), args.only or STARVED))
    result = {
        "bench": "starved",
        "steps": args.steps,
        "causes": [asdict(row) | {"error": row.error} for row in rows],
        "named_right": sum(row.named == row.cause for row in rows),
        "gain_error_max": max(abs(row.error) for row in rows),
    }
    if args.json:
        report(result, as_json=True)
        return 0
    print(table_of(rows))
    print(f"{result['named_right']} of {len(rows)} named right; largest error of a gain {result['gain_error_max']:.1%}")
    return 0
