"""Contracts: what every connector of a kind must do, as test classes to inherit.

::

    from modelmesh_cdk.testing import ProviderContract


    class TestAcme(ProviderContract):
        def make(self, context):
            return AcmeProvider(AcmeConfig(api_key="test"))

A test that makes no sense for a connector is overridden with the reason; a bug found in one connector becomes a test
here, so that no other has it.
"""

from __future__ import annotations

import pytest

# Plain asserts say nothing but "AssertionError" unless pytest is told about the modules before they are imported.
_MODULES = ("provider", "openai_provider", "strategy", "state_store", "observability")
_STORES = ("store_ledger", "store_locks", "store_messages", "store_processes")
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in (*_MODULES, *_STORES)))
