"""Worker processes that judge: pools of them, here and on other hosts. Enter by pool.py."""
