"""Damage and bad input by the hundred: what the package does with files that are not as it wrote them."""
