"""Measures whether engine and learner give the same tokens the same log-probabilities. For `doctor --agreement` and benches."""
