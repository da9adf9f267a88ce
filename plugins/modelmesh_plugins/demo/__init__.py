"""``modelmesh demo``: three providers on this machine, two of them bad, and a pool that answers all the same."""
