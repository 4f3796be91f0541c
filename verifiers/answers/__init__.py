"""Final answers: where they stand in a completion, what they mean, and when two are the same. For math and stem."""
