"""The connectors that come with ModelMesh, registered by entry points like anybody's."""
