"""Measurements as commands: ``python -m benchmarks`` lists them, ``benchmarks/README.rst`` explains them."""
