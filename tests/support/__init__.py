"""What several tests need, and nothing that decides whether a test passes."""
