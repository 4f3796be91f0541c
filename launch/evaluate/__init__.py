"""`prolong evaluate`: held-out prompts, several rollouts each, by several models; scores with intervals."""
