"""Files of prompts and their records, read in one place for the buffer and for `prolong data`."""
