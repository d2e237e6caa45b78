"""Secrets: which names they have, and that no refusal shows one."""

import json

import pytest

import configs
from configs.control import ControlRequest
from configs.parse import parse_message
from configs.secrets import MASK, is_secret, masked

VIEW = {"op": "view", "data_dirname": "city", "mask_dirname": "g22", "checkpoint_path": "t"}
SECRET = "hunter2hunter2"
NAMES = [
    "viewer_token", "apiToken", "sasl.password", "passwd", "pass-phrase", "api-key", "private_key",
    "credentials", "client_secret", "pwd", "auth", "oauth2", "Authorization", "authorisation",
    "authentication", "bearer", "Cookie", "set_cookie",
]  # fmt: skip
MISTYPED = ["viewer_tokn", "viewer_toekn", "viewerTokn", "pasword", "secert"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_says_that_its_value_is_a_secret(name: str) -> None:
    """However it is written; an object's or list's secrets are masked where they lie."""
    assert is_secret(name)
    assert masked([{name: SECRET, "seed": 1}]) == [{name: MASK, "seed": 1}]


def test_other_names_are_none() -> None:
    """Of all fields only the viewer's token; words that hold "auth" by chance are no secrets."""
    specs = [*configs.OPS.values(), ControlRequest]
    fields = {name for spec in specs for name in spec.model_fields}
    assert {name for name in fields if is_secret(name)} == {"viewer_token"}
    others = ["author", "authors", "authored_by", "authority", "host", "port", "keys", "passes"]
    assert not any(map(is_secret, others))


@pytest.mark.parametrize("name", [*NAMES, *MISTYPED, "viewertkn"])
@pytest.mark.parametrize("value", [f"{SECRET} with a space", [SECRET], SECRET * 1000])
def test_no_refusal_shows_a_secret(name: str, value: object) -> None:
    """Neither under a field's name nor under a mistyped one, nor where it is given twice."""
    twice = f'{{"{name}": 1, "{name}": {json.dumps(value)}}}'
    for raw in (json.dumps({**VIEW, name: value}), twice):
        told = _refusal(raw)
        assert SECRET not in told
        assert MASK in told or "given twice" in told or "a text of" in told


def test_what_cannot_be_printed_is_named_by_its_place() -> None:
    """Without the text around it."""
    told = _refusal(json.dumps({**VIEW, "data_dirname": "city\u202e"}))
    assert "data_dirname = a text of 5 characters, number 5 of them U+202E: must be" in told


def _refusal(raw: str) -> str:
    with pytest.raises(configs.JobRefused) as caught:
        parse_message(raw)
    return caught.value.reason + json.dumps(caught.value.as_dicts())


def test_a_mistyped_secret_still_gets_its_mend() -> None:
    """The field that was meant is named; what is no secret is shown as before."""
    for name in ("viewer_tokn", "viewertkn", "viewer_tk"):
        told = _refusal(json.dumps({**VIEW, name: SECRET}))
        assert f"{name} = {MASK}" in told and "did you mean 'viewer_token'?" in told
    told = _refusal(json.dumps({**VIEW, "viewer_prt": 7070, "author": "me"}))
    assert "viewer_prt = 7070" in told and 'author = "me"' in told
