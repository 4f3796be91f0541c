"""The weights plane that learner and actors share: the transport seam, the layout of an update, the collective broadcast.

Learner, actors and benches enter through `api`, `buckets` and `transports`. Only `transports` imports an implementation.
"""
