"""`prolong bootstrap --model smollm2`: a small chat model from the package index, with prompts that it can learn from."""
