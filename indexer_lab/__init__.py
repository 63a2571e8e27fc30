"""Which keys did a sparse-attention selector miss, and what did that cost?"""

__version__ = "0.1.0"
