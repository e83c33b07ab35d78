"""What things are: specifications, states and values. Pydantic and the standard library, no I/O."""
