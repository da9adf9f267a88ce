"""State stores, one file each."""
