"""What holds for the applications of all services together."""

from pydantic import SecretStr

from cli.hosting import load_apps
from cli.system import SERVICES
from shared.http.openapi import api_routes
from shared.http.route import UnitOfWorkRoute
from shared.settings import Settings


def test_every_post_of_a_service_with_tables_keeps_its_answer() -> None:
    """The gateway lets a signed request with an Idempotency-Key be sent again, because of this."""
    apps = load_apps(Settings(database_url=SecretStr("postgresql://nobody@localhost/nothing")))
    found = []
    for service in SERVICES:
        posts = [route for route in api_routes(apps[service.name].app) if "POST" in (route.methods or ())]
        assert all(isinstance(route, UnitOfWorkRoute) for route in posts), service.name
        found += posts
    assert len(found) > 20
