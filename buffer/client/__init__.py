"""The client of the buffer, for actors, learners and observers. The only part of the buffer that they may import."""
