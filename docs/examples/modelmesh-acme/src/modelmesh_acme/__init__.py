"""Acme for ModelMesh. Nothing is imported here: the entry points name the modules, each loaded when it is used."""
