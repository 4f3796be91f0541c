"""Final answers: finding them in a completion, reading them, and comparing two of them. For math and stem."""
