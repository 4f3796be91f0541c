"""The weights plane that learner and actors share: the transport seam, the layout of an update, the collective broadcast."""
