"""`prolong data`: check, convert and generate prompt files. `launch/cli.py` enters by command.py."""
