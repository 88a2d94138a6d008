"""Long measurements whose figures the README quotes. Not run by CI."""
