"""Worker processes that judge: the pool, its workers here, and those on other hosts."""
