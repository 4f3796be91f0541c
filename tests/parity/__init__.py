"""Our losses beside those of TRL and verl; it runs in an environment of its own (`make parity`)."""
