"""Verifiers: from a completion to a verdict, in killable workers."""
