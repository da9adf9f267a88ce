"""OpenTelemetry's names for generative AI, and our own beside them.

They are marked as in development and have changed before, so they stand here and nowhere else.
Version: semantic conventions 1.44 (https://github.com/open-telemetry/semantic-conventions-genai, November 2026).
"""

from __future__ import annotations

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

# --- attributes -----------------------------------------------------------------------------

OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 -- the name of an attribute
ERROR_TYPE = "error.type"
STATUS_CODE = "http.response.status_code"

REQUEST_ID = "modelmesh.request.id"
POOL = "modelmesh.pool"
MODEL = "modelmesh.model"
OUTCOME = "modelmesh.outcome"
ATTEMPT = "modelmesh.attempt"
ATTEMPTS = "modelmesh.attempts"
ROUTING_REASON = "modelmesh.routing.reason"
COST_USD = "modelmesh.cost_usd"
OVERHEAD_US = "modelmesh.overhead_us"
EVENT = "modelmesh.event"

# --- metrics --------------------------------------------------------------------------------

TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105 -- the name of a metric
OPERATION_DURATION = "gen_ai.client.operation.duration"
FIRST_CHUNK_DURATION = "gen_ai.client.operation.time_to_first_chunk"
REQUEST_DURATION = "modelmesh.request.duration"
EVENTS = "modelmesh.events"

TOKEN_BUCKETS = tuple(float(4**power) for power in range(14))
DURATION_BUCKETS = tuple(0.01 * 2**power for power in range(14))
FIRST_CHUNK_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds of histogram buckets, as the conventions recommend them."""
