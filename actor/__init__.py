"""The actor: vLLM generates the groups that tickets permit, verifiers score them."""
