"""``modelmesh replay``: what recorded requests would have met under another configuration."""
