"""The life of one ticket, from the records of a run: `python examples/follow_a_ticket.py runs/NAME [--version V]`.

The ticket is one of the batch of version V: the one whose rollouts were sampled by most policy versions. Without V, the batches
are searched for it in the same way. The run needs `buffer.keep_history=true` for batches that no checkpoint needs any more.
docs/walkthrough.md follows the same ticket through the code.
"""

import argparse
from pathlib import Path

import numpy as np
from prolong.buffer.journal.journal import Journal, read_journal
from prolong.buffer.tickets.store import ticket_seed
from prolong.common.config.run_files import RunPaths, load_config
from prolong.common.messages import GroupResult
from prolong.common.metrics import read_metrics
from prolong.common.tokenizer import Tokenizer
from prolong.common.transport.wire import encode
from prolong.common.types import Batch, Group, Rollout, TicketState, float32_array, int32_array, rollout_seed

SHOWN = (
    "buffer/staleness_mean",
    "learner/tokens",
    "learner/micro_batches",
    "policy/loss",
    "policy/ess",
    "reference/kl",
    "learner/grad_norm",
    "weights/critical_s",
    "weights/publish_s",
)


def most_spans(batch: Batch) -> int:
    return max(len(rollout.spans) for group in batch.groups for rollout in group.rollouts)


def choose(journal: Journal, version: int | None) -> tuple[Batch, Group]:
    """The batch to look at, and its group with most version spans."""
    versions = journal.versions() if version is None else [version]
    batches = [batch for batch in map(journal.batch, versions) if batch is not None]
    batch = max(batches, key=lambda batch: (most_spans(batch), batch.version))
    return batch, max(batch.groups, key=lambda group: max(len(rollout.spans) for rollout in group.rollouts))


def states_of(journal: Journal, ordinal: int) -> str:
    """The states of a ticket as the ledger recorded them; batched tickets become trained as a batch, without their names."""
    states = list(TicketState)
    _, moves = journal.moves()
    return " -> ".join(states[move.to_state].value for move in moves if move.ordinal == ordinal)


def describe(rollout: Rollout, tokenizer: Tokenizer) -> None:
    text = tokenizer.decode(int32_array(rollout.token_ids), skip_special=True)
    spans = ", ".join(f"[{span.start}, {span.end}) by version {span.version}" for span in rollout.spans)
    behaviour = float32_array(rollout.behaviour_logprobs)
    print(f"  {text!r}")
    print(f"    {rollout.num_tokens} tokens, {spans}; ended by {rollout.finish_reason.value}")
    print(f"    behaviour log-probabilities {', '.join(f'{value:.3f}' for value in behaviour[:5])}, ...")
    print(f"    verdict: reward {rollout.verdict.reward} ({rollout.verdict.status}), {1000 * rollout.verdict.seconds:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--version", type=int)
    args = parser.parse_args()
    run = RunPaths(args.run)
    journal = read_journal(run.journal)
    batch, group = choose(journal, args.version)
    tokenizer = Tokenizer.load(str(max(run.checkpoints.glob("step-*"))))
    print(f"prompt {group.prompt.uid}, {len(int32_array(group.prompt.token_ids))} tokens: {group.prompt.text!r}")
    print(f"verifier {group.prompt.verifier}, answer {group.prompt.answer}")
    sampling = group.sampling
    print(f"ticket {group.ordinal}: n {sampling.n}, temperature {sampling.temperature}, max_tokens {sampling.max_tokens}")
    seed = ticket_seed(load_config(run.config).run.seed, group.ordinal)
    print(f"seed {seed}: rollout 0 samples with {rollout_seed(seed, 0)}")
    print(f"states: {states_of(journal, group.ordinal)}")
    print(f"group from {group.actor} after {group.seconds:.2f} s, rewards {[r.verdict.reward for r in group.rollouts]}")
    print(f"its message is a frame of {len(encode(GroupResult(group=group)))} bytes")
    ranked = sorted(group.rollouts, key=lambda rollout: -len(rollout.spans))
    for rollout in ranked[:2]:
        describe(rollout, tokenizer)
    place = [member.ordinal for member in batch.groups].index(group.ordinal)
    print(f"group {place} of {len(batch.groups)} in the batch of version {batch.version}, generation {batch.generation}")
    staleness = batch.version - group.oldest_version
    print(f"staleness {staleness}: its oldest token is of version {group.oldest_version}")
    rewards = np.array([rollout.verdict.reward for rollout in group.rollouts], dtype=float)
    mean, std = rewards.mean(), rewards.std(ddof=1)
    advantages = [f"{(reward - mean) / (std + 1e-6):.3f} for reward {reward:g}" for reward in np.unique(rewards)]
    print(f"rewards of mean {mean:.3f} and deviation {std:.3f}: advantages {', '.join(advantages)}")
    record = next(record for record in read_metrics(run.metrics) if record["step"] == batch.version + 1)
    for name in SHOWN:
        print(f"step {record['step']}: {name} {record[name]:.4g}")
    journal.close()


if __name__ == "__main__":
    main()
