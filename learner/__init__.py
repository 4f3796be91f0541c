"""The learner: turns batches of scored groups into policy versions."""
