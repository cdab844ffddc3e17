"""Generated skeleton clips for tests, examples and runs without any download."""
