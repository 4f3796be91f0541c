"""The demo: its tasks, tokenizer, model and prompts. `launch/cli.py` enters by bootstrap.py, and so does bench/prolonged.py."""
