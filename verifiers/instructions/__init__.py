"""Instruction following: the 25 verifiable instruction types of IFEval, and their verifier."""
