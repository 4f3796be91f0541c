"""Replacements of slow or faulty parts of vLLM on a CPU. They patch its private interfaces, so they are fenced in here."""
