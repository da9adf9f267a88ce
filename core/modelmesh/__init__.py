"""ModelMesh routes AI requests by capability over many providers."""
