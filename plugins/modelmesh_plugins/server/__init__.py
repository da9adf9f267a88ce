"""The OpenAI-compatible HTTP door: any OpenAI SDK talks to a mesh through it.

`app` puts it together, `runner` listens. Both need the ``server`` extra, so neither is imported here.
"""
