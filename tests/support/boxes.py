"""The reward of a boxed answer, judged by the quick path where there is one."""

from prolong.verifiers.api import Task, Verifier


def boxed_reward(verifier: Verifier, stored: str, boxed: str) -> float:
    answer = {"answer": stored}
    verifier.check(answer)
    task = Task(completion=f"\\boxed{{{boxed}}}", answer=answer)
    return (verifier.quick(task) or verifier.score(task)).reward
