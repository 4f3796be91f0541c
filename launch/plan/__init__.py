"""What a run will need, from config.json and settings alone, without torch: `prolong plan memory`.

model_shape -> learner_memory, actor_memory -> machine_fit -> memory_command
"""
