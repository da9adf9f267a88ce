"""What crosses the border between the core and connectors, one module a connector kind."""
