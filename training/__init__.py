"""What `train.py` and the benchmarks share: data, methods by name, runs, and what runs leave.

`options` is any object whose attributes are the flags of `train.py`, by name.
"""
