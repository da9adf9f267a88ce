"""What ``modelmesh simulate`` does: a configuration under a scenario, in virtual time."""
