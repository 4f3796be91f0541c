"""`prolong data`: check, convert and generate files of prompts."""
