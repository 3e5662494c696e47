"""The order of messages as a small model, explored to its end; see ``docs/order.rst``."""
