"""Cells for a notebook: prompts and a reward function of your own, a run, and what it did. It is also a script:

    prolong bootstrap --out models/demo
    python examples/train_from_python.py --steps 20

The function stays in this process, and the workers of the run ask it for each reward; so it may be a lambda, read what is
defined in other cells, and print.
"""

# %% A reward function: full marks for the right number, half marks for one close by
import argparse
import random
import re

from prolong.launch.python import train

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--name", default="from-python")
parser.add_argument("settings", nargs="*", help="further settings, as section.key=value")
args = parser.parse_args()

NEAR = 0.1


def near_miss(completion, answer):
    boxes = re.findall(r"\\boxed\{(-?\d+)\}", completion)
    if not boxes:
        return {"score": 0.0, "no_box": 1.0}
    distance = abs(int(boxes[-1]) - answer["sum"])
    return 1.0 if distance == 0 else 0.5 * (distance <= NEAR * abs(answer["sum"]))


# %% Prompts: any iterable of records. There is one reward function, so they need not name it
def sums(count: int, seed: int):
    draw = random.Random(seed)
    for _ in range(count):
        digits = [draw.randint(1, 9) for _ in range(4)]
        text = f"What is {'+'.join(map(str, digits))}? Put the answer in \\boxed{{}}."
        yield {"prompt": text, "domain": "math", "task": "sums", "answer": {"sum": sum(digits)}}


# %% A run: the processes of `prolong train`. The same cell again goes on where it was
settings = [f"run.name={args.name}", f"run.steps={args.steps}", "buffer.keep_history=true", *args.settings]
run = train("demo", settings, rewards={"near_miss": near_miss}, prompts=sums(200, seed=0), heldout=sums(20, seed=1))

# %% What it did: metrics are records, rows for a data frame
(first, before), *_, (last, after) = run.series("reward/mean")
print(f"mean reward {before:.2f} at step {first}, {after:.2f} at step {last}")

# %% Rollouts, the best and the worst of the last batch
rollouts = sorted(run.rollouts([args.steps - 1]), key=lambda rollout: rollout.reward or 0.0)
for rollout in (rollouts[0], rollouts[-1]):
    print(f"{rollout.prompt!r} -> {rollout.completion!r} earned {rollout.reward} (sampled by versions {rollout.spans})")
