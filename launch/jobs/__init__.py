"""`prolong launch`: files that start the processes of a run under a scheduler, which does the distribution. `cli.py` enters by
command.py; a scheduler is a target (api.py) in a file of its own."""
