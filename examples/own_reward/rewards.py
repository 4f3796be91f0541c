"""A reward function of your own: full marks for the right number, half marks for a near miss.

`prolong` calls it as `f(completion, answer)` in a worker process that may be killed. `answer` is the JSON object of the prompt.
It returns a number, or a dictionary with "score" and numbers that are reported beside it.
"""

import re


def near_miss(completion, answer):
    """1 for the number in the last \\boxed{...}, 0.5 within 10 % of it, else 0."""
    boxes = re.findall(r"\\boxed\{(-?\d+)\}", completion)
    if not boxes:
        return {"score": 0.0, "no_box": 1.0}
    distance = abs(int(boxes[-1]) - answer["sum"])
    if distance == 0:
        return 1.0
    return 0.5 if distance <= 0.1 * abs(answer["sum"]) else 0.0
