"""One script per measured thing."""
