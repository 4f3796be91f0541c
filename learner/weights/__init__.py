"""The learner's end of the weights plane."""
