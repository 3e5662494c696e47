"""``twistd chatflow-load``: sends what thousands of users would send, and proves what came back."""
