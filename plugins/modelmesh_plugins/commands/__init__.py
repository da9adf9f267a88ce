"""The sub-commands of ``modelmesh``, one file each."""
