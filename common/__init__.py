"""What every process shares: types, wire, configuration, errors, metrics."""
