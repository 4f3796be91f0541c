"""The transformers engine: generation in a thread of the actor's process. For tests and for machines without vLLM."""
