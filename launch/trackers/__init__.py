"""Copies of a run's metrics in W&B, trackio and MLflow: `torchrun.py` starts them beside a learner, `cli.py` by hand."""
