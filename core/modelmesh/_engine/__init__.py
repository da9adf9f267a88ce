"""Private: the machinery behind the public modules."""
