"""The vLLM engine, and what of it runs inside vLLM's own processes. Only this package imports vLLM."""
