"""The contract's vectors (G.1) and our texts, read by the libraries that stock clients and algorithms use."""

import base64

import pytest
from vantage6.common import bytes_to_base64s
from vantage6.common.globals import ENV_VAR_EQUALS_REPLACEMENT, STRING_ENCODING
from vantage6.common.serialization import serialize


def decoded(value):
    """As `get_env_var` of the algorithm tools does it."""
    return base64.b32decode(value.replace(ENV_VAR_EQUALS_REPLACEMENT, "=")).decode(STRING_ENCODING)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("abc", "MFRGG!!!"),
        ("8080", "HAYDQMA!"),
        ("http://proxyserver", "NB2HI4B2F4XXA4TPPB4XGZLSOZSXE!!!"),
        ("default,two", "MRSWMYLVNR2CY5DXN4!!!!!!"),
        ("", ""),
    ],
)
def test_the_vectors_of_variables_are_those_of_the_library(text, value):
    assert decoded(value) == text


def test_an_input_is_the_vectors_text():
    assert bytes_to_base64s(serialize({"method": "m"})) == "eyJtZXRob2QiOiAibSJ9"


def test_what_a_node_gives_a_run_reads_as_the_tools_read_it(probed):
    """The variables of the algorithm contract, from within a run of a foreign program."""
    environment = probed()["environment"]
    expected = {
        "HOST": "http://127.0.0.1",
        "PORT": "8080",
        "API_PATH": "",
        "USER_REQUESTED_DATABASE_LABELS": "default",
        "DEFAULT_DATABASE_TYPE": "csv",
    }
    assert {name: decoded(environment[name]) for name in expected} == expected
    for name in ("INPUT_FILE", "OUTPUT_FILE", "TOKEN_FILE", "TEMPORARY_FOLDER", "DEFAULT_DATABASE_URI"):
        assert decoded(environment[name]).startswith("/"), name
