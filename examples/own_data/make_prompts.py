"""Prompts from a table of your own: one JSON object a line, in the words that docs/config.md lists.

    python examples/own_data/make_prompts.py prompts.jsonl
    prolong data check prompts.jsonl model=models/demo

The table here is made up (sums of four digits); yours may be a CSV file or a query. `uid` is unique and stable: it names the
prompt in the journal, so that a run resumes and replays. `answer` holds what the verifier needs.
"""

import argparse
import json
import random


def table(rows: int) -> list[list[int]]:
    """Four digits a row, the same at every call."""
    source = random.Random(0)
    return [[source.randint(1, 9) for _ in range(4)] for _ in range(rows)]


def prompt(number: int, digits: list[int], verifier: str) -> dict:
    answer = {"sum": sum(digits)} if verifier == "near_miss" else {"answer": str(sum(digits))}
    return {
        "uid": f"sums/{number}",
        "prompt": f"What is {'+'.join(map(str, digits))}? Put the answer in \\boxed{{}}.",
        "domain": "math",
        "task": "sums",
        "verifier": verifier,
        "answer": answer,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--verifier", default="near_miss", help="near_miss (examples/own_reward) or math")
    args = parser.parse_args()
    with open(args.out, "w", encoding="utf-8") as file:
        for number, digits in enumerate(table(args.rows)):
            file.write(json.dumps(prompt(number, digits, args.verifier)) + "\n")
    print(f"{args.out}: {args.rows} prompts")
