"""What a dependency changes of objects of the application, as its bytecode tells."""

import functools
import types
from collections.abc import Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, Request
from redis.asyncio import Redis
from starlette.datastructures import State

from stream_cached.endpoint.changed import changed_by
from stream_cached.endpoint.function import name_of

client: Any = httpx.AsyncClient()
redis = Redis()
held = types.SimpleNamespace(client=client, redis=redis)


def get_client() -> Any:
    return client


Given = Annotated[Any, Depends(get_client)]


def an_item(user: str) -> None:
    client.headers["x-user"] = user


def an_item_of_another_name(user: str, name: str) -> None:
    client.headers[name] = user


def an_item_of_what_is_given(given: Given, name: str) -> None:
    given[name] = "x"


def an_item_of_a_made_name(user: str, name: str) -> None:
    client.headers[f"x-{name}"] = user


def an_item_that_goes(user: str) -> None:
    del client.headers["x-user"]


def an_attribute(user: str) -> None:
    client.auth = (user, "")


def a_method(user: str) -> None:
    client.cookies.set("user", user)


def a_method_of_what_is_given(user: str, given: Given) -> None:
    given.headers.update({"x-user": user})


def an_item_behind_another_variable(user: str) -> None:
    headers = held.client.headers
    headers["x-user"] = user


def an_item_by_another_name_for_it(user: str) -> None:
    api = client
    api.headers["x-user"] = user


def an_item_by_a_name_in_a_condition(user: str) -> None:
    if (headers := client.headers) and user:
        headers["x-user"] = user


def an_item_of_what_a_function_returns(user: str) -> None:
    get_client().headers["x-user"] = user


def a_method_of_what_a_function_returns(user: str) -> None:
    api = get_client()
    api.headers.update({"x-user": user})


def all_of_what_a_function_returns() -> None:
    get_client().cookies.clear()


def get_client_of_the_state(request: Request) -> Any:
    return request.state.client


def an_attribute_of_what_is_given_from_the_state(
    user: str, api: Annotated[Any, Depends(get_client_of_the_state)]
) -> None:
    api.auth = (user, "")


def an_item_in_the_state(request: Request) -> None:
    request.state.client.headers["x-user"] = request.cookies["user"]


def an_item_in_the_state_of_the_application(request: Request) -> None:
    request.app.state.client.headers["x-user"] = request.cookies["user"]


def an_attribute_that_is_added_to(user: str) -> None:
    client.headers |= {"x-user": user}


def an_item_that_is_added_to(user: str) -> None:
    client.headers["x-user"] += user


def an_attribute_by_its_name(user: str) -> None:
    setattr(client, "auth", user)  # noqa: B010


class Login:
    def __init__(self, client: Any) -> None:
        self.client = client

    def __call__(self, user: str) -> None:
        self.client.headers["x-user"] = user

    def login(self, user: str) -> None:
        self.client.auth = (user, "")


def an_attribute_of_an_argument(user: str, *, api: Any) -> None:
    api.auth = (user, "")


async def an_item_after_something_else(user: str) -> None:
    if await redis.get(user):
        client.headers["x-user"] = user


CHANGING: list[Callable[..., object]] = [
    *(an_item, an_item_of_another_name, an_item_of_a_made_name, an_item_that_goes, an_attribute),
    *(a_method, a_method_of_what_is_given, an_item_behind_another_variable, an_item_in_the_state),
    *(an_item_in_the_state_of_the_application, an_item_after_something_else),
    *(an_attribute_that_is_added_to, an_item_that_is_added_to, an_attribute_by_its_name),
    *(Login(client), Login(client).login, an_item_of_what_is_given),
    *(an_item_by_another_name_for_it, an_item_by_a_name_in_a_condition),
    *(an_item_of_what_a_function_returns, a_method_of_what_a_function_returns),
    *(all_of_what_a_function_returns, an_attribute_of_what_is_given_from_the_state),
    functools.partial(an_attribute_of_an_argument, api=client),
]


def a_use(user: str) -> object:
    return client.build_request("GET", user)


def an_item_of_another_object(user: str, seen: dict[str, str]) -> None:
    seen[user] = client.headers["user-agent"]


def an_item_named_by_it(user: str) -> None:
    held.names[client.headers["user-agent"]] = user


async def a_method_of_a_tool(user: str) -> None:
    await redis.set(user, "seen")


async def a_method_of_a_tool_behind_an_attribute(user: str) -> None:
    await held.redis.set(user, "seen")


def a_comparison(user: str) -> object:
    return "a" < client.headers["user-agent"] < user


def one_more_name(user: str) -> object:
    return (one := client) and one.headers.get(user)


def another_attribute_of_its_holder(user: str) -> None:
    held.user = user


def a_use_of_what_a_function_returns(user: str) -> object:
    api = get_client()
    return api.build_request("GET", user)


def another_client_that_a_function_makes(user: str) -> None:
    api = httpx.AsyncClient()
    api.headers["x-user"] = user


def its_own_client(user: str) -> None:
    client = httpx.AsyncClient()
    client.headers["x-user"] = user


HARMLESS: list[Callable[..., object]] = [
    *(a_use, an_item_of_another_object, an_item_named_by_it, a_method_of_a_tool),
    *(a_method_of_a_tool_behind_an_attribute, another_attribute_of_its_holder),
    *(its_own_client, a_comparison, one_more_name),
    *(a_use_of_what_a_function_returns, another_client_that_a_function_makes),
]


def changed(function: Callable[..., object]) -> list[object]:
    app = types.SimpleNamespace(state=State({"client": client}))
    return [*changed_by(function, {}, {"app": app, "state": {"client": client}})]


@pytest.mark.parametrize("function", CHANGING, ids=name_of)
def test_what_is_changed_where_it_is_named_is_seen(function: Callable[..., object]) -> None:
    assert any(each is client for each in changed(function))


@pytest.mark.parametrize("function", HARMLESS, ids=name_of)
def test_what_is_only_used_is_not_changed(function: Callable[..., object]) -> None:
    assert not any(each is client or each is redis for each in changed(function))
