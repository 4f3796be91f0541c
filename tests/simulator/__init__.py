"""A world of processes, clocks, disks and a network, all under one seed, in which the shipped buffer core runs."""
