"""Where untrusted code runs: the backends, the jail inside them, and the self-test that must pass first."""
