"""Cells for a notebook: what a run has recorded. It is also a script:

    python examples/look_at_a_run.py runs/NAME --out picture.png

Everything is read, nothing is written into the run, and the run may be live.
"""

# %% Open a run
import argparse
from pathlib import Path

from prolong.buffer.journal.journal import read_journal
from prolong.common.config.run_files import RunPaths
from prolong.common.metrics import read_metrics
from prolong.common.tokenizer import Tokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("run", type=Path, help="the run's folder")
parser.add_argument("--out", type=Path, help="write the curves as a picture")
args = parser.parse_args()
run = RunPaths(args.run)

# %% The metrics are one record a step: group/name -> number
steps = read_metrics(run.metrics)
for record in (steps[0], steps[-1]):
    print(f"step {record['step']}: reward {record['reward/mean']:.2f}, staleness {record['buffer/staleness_mean']:.1f}")

# %% Where the learner's seconds went
spent = {name: sum(record.get(f"learner/{name}", 0.0) for record in steps) for name in ("wait_s", "compute_s", "publish_s")}
print("learner: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items()))

# %% The journal holds the batches that checkpoints still need (all of them with buffer.keep_history=true)
journal = read_journal(run.journal)
version = journal.versions()[-1]
batch = journal.batch(version)
assert batch is not None
print(f"the batch of version {version}: {len(batch.groups)} groups of {len(batch.groups[0].rollouts)} rollouts")

# %% A rollout: its text, its reward, and which policy version sampled which tokens
newest_checkpoint = max(run.checkpoints.glob("step-*"))  # holds the tokenizer too
tokenizer = Tokenizer.load(str(newest_checkpoint))
group = batch.groups[0]
for rollout in group.rollouts[:3]:
    text = tokenizer.decode(memoryview(rollout.token_ids).cast("i"), skip_special=True)
    spans = ", ".join(f"[{span.start}, {span.end}) by version {span.version}" for span in rollout.spans)
    print(f"{group.prompt.uid}: {text!r} earned {rollout.verdict.reward} ({spans})")
journal.close()

# %% The curve
if args.out:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot([record["step"] for record in steps], [record["reward/mean"] for record in steps])
    axes.set(xlabel="learner step", ylabel="mean reward", title=args.run.name)
    figure.savefig(args.out, dpi=120)
    print(f"{args.out}: the mean reward of {len(steps)} steps")
