"""The pages that this project adds to Flower: one module per page, derived from ``base``."""
