"""Programs that models write: the answer specification, the block that counts, and the tests. Enter by ../code.py."""
