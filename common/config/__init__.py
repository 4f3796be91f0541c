"""The configuration: every setting with its default, how YAML becomes it, and where the files of a run lie. Torch-free."""
