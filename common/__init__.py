"""Code that every process shares: types, messages, transport, configuration, errors, metrics. All folders may enter."""
