"""The demo: its tasks, tokenizer, model and prompts."""
