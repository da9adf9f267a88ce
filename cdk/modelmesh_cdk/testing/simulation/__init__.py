"""Simulation: the real mesh in virtual time, over providers, stores and clocks in which everything can go wrong.

A seed draws a world (`draw_world`): providers with quotas, prices and troubles, one to four processes that may share a
store, and the requests made of them. `run_world` runs it on an event loop whose time is virtual and whose order is
drawn from the seed, while a watch holds everything it sees against the promises of the mesh. A broken promise is shown
by its seed and by the least that it takes (`shrink`, `report`).
"""

from modelmesh_cdk.testing.simulation.clock import SimulatedClock
from modelmesh_cdk.testing.simulation.draw import draw_world
from modelmesh_cdk.testing.simulation.loop import RunawayError, SimulationLoop, StalledError
from modelmesh_cdk.testing.simulation.run import Outcome, run_seed, run_world
from modelmesh_cdk.testing.simulation.shrink import report, shrink
from modelmesh_cdk.testing.simulation.watch import BrokenInvariantError
from modelmesh_cdk.testing.simulation.world import Ask, Fault, ProviderSpec, World

__all__ = [
    "Ask",
    "BrokenInvariantError",
    "Fault",
    "Outcome",
    "ProviderSpec",
    "RunawayError",
    "SimulatedClock",
    "SimulationLoop",
    "StalledError",
    "World",
    "draw_world",
    "report",
    "run_seed",
    "run_world",
    "shrink",
]
