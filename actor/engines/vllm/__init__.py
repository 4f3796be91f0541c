"""The vLLM engine, and the code of it that runs inside vLLM's own process. Nothing else in the product imports vLLM.

engine.py            the engine, in the actor's process: requests and weight updates
engine_arguments.py  which arguments of vLLM's engine a user may give (no vLLM)
settings.py          how vLLM is configured, and what it reads from the environment
engine_process.py    notices that vLLM's process died
start_failure.py     why vLLM's process did not start, from its log (no vLLM)
segments.py          how weights of a token are named on the way out (no vLLM)
stop_arguments.py    how texts that end a rollout reach vLLM's process (no vLLM)
scheduler.py         in vLLM's process: one output per rollout
worker.py            in vLLM's process: receives and loads weights
staged_buckets.py    in vLLM's process: where the tensors lie that are loaded (no vLLM)
parent_watch.py      in vLLM's process: ends it with the actor (no vLLM)
cpu/                 in vLLM's process, on a CPU only: replacements of slow or faulty parts
"""
