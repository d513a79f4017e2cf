"""The API held to its own description: requests of all kinds that it allows and forbids."""

from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from comet.admin.app import create_app
from tests.support.admin_samples import services, view_model
from tests.unit.admin.test_api import BEARER, Asked, Inspected

CHECKS: list[Any] = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]  # fmt: skip


def api_schema() -> Any:
    seen = view_model()
    return schemathesis.openapi.from_wsgi(
        "/api/v1/openapi.json", create_app(services(seen, Asked(), inspect=Inspected()))
    )


@api_schema().parametrize()
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_response_fits_the_openapi_document(case: schemathesis.Case) -> None:
    assert case.call_and_validate(headers=BEARER, checks=CHECKS).status_code < 500
