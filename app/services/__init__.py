"""What may happen to things: one function is one transaction, and what happens outside comes after it."""
