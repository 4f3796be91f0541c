"""The actor: an engine generates the groups that tickets permit, and verifiers score them.

Entered by launch (`main.main`). It knows the buffer by `buffer.client` alone, and never the learner.
"""
