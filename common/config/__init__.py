"""The configuration: every setting with its default, its way from and to YAML, and the files of a run. No torch, no Hydra.

Every room may enter; only `launch/recipes.py` composes recipes and overrides.
"""
