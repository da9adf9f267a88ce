"""Provider connectors, one file each."""
