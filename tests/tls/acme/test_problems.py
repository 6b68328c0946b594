from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tls.acme.problems import (
    MAX_TEXT,
    ORDERING,
    PREFIX,
    REGISTERING,
    VALIDATING,
    Problem,
    failed,
    failure_of,
    joined,
    parse_problem,
)
from tls.ports import Failure, IssuingFailed

KEYS = ["type", "detail", "title", "identifier", "value", "subproblems", "x"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "detail", "title", "identifier", "value", "subproblems", "x"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)


@pytest.mark.parametrize(
    ("kind", "status", "step", "failure"),
    [
        ("rateLimited", 429, {}, Failure.RATE_LIMITED),
        ("", 429, {}, Failure.RATE_LIMITED),
        ("", 500, {}, Failure.UNREACHABLE),
        ("", 503, {}, Failure.UNREACHABLE),
        ("serverInternal", 500, {}, Failure.UNREACHABLE),
        ("rejectedIdentifier", 400, {}, Failure.REJECTED_NAME),
        ("caa", 403, VALIDATING, Failure.REJECTED_NAME),
        ("accountDoesNotExist", 400, ORDERING, Failure.LOST_ACCOUNT),
        ("externalAccountRequired", 403, REGISTERING, Failure.BAD_ACCOUNT),
        ("unauthorized", 403, REGISTERING, Failure.BAD_ACCOUNT),
        ("unauthorized", 403, ORDERING, Failure.BAD_ACCOUNT),
        ("unauthorized", 403, VALIDATING, Failure.VALIDATION),
        ("unauthorized", 403, {}, Failure.REFUSED),
        ("malformed", 400, {}, Failure.REFUSED),
        ("malformed", 400, REGISTERING, Failure.BAD_ACCOUNT),
        ("connection", 0, VALIDATING, Failure.VALIDATION),
        ("neverHeardOf", 403, {}, Failure.REFUSED),
    ],
)
def test_classes(kind: str, status: int, step: dict[str, Failure], failure: Failure) -> None:
    assert failure_of(Problem(kind, status=status), step) is failure


def test_a_compound_problem_has_the_class_and_names_of_its_parts() -> None:
    problem = parse_problem(
        {
            "type": PREFIX + "malformed",
            "detail": "some names are refused",
            "subproblems": [
                {"type": PREFIX + "malformed", "identifier": {"type": "dns", "value": "a.test"}},
                {"type": PREFIX + "rejectedIdentifier", "detail": "no", "identifier": {"value": "b.test"}},
            ],
        },
        400,
    )
    failure = failed(problem)
    assert failure.failure is Failure.REJECTED_NAME
    assert failure.names == ("a.test", "b.test")
    assert "b.test: no (rejectedIdentifier)" in failure.text


@pytest.mark.parametrize(
    ("detail", "names"),
    [
        ('policy forbids "a.test"', ("a.test",)),
        ("policy forbids a.test.", ("a.test",)),
        ("policy forbids *.a.test", ("*.a.test",)),
        ("policy forbids xa.test and a.test.example", ()),
        ("policy forbids mail.a.test, b-a.test", ()),
    ],
)
def test_names_in_the_words_of_a_problem(detail: str, names: tuple[str, ...]) -> None:
    assert failed(Problem("rejectedIdentifier", detail), ordered=["a.test", "*.a.test"]).names == names


def test_kinds_of_others_are_no_kinds() -> None:
    assert parse_problem({"type": "about:blank", "title": "Nope"}, 403) == Problem("", "Nope", 403)


def test_words_cannot_forge_lines_of_a_log() -> None:
    text = parse_problem({"detail": "no\r\nERROR node dead\x1b[31m\u2028x\ud800y"}).text()
    assert text == "no ERROR node dead [31m x y"


@settings(max_examples=200)
@given(JSON, st.integers(0, 599))
def test_no_document_raises_or_grows(document: object, status: int) -> None:
    failure = failed(parse_problem(document, status), VALIDATING, ordered=["a.test"])
    assert 0 < len(failure.text) <= MAX_TEXT
    assert failure.text.encode()  # no halves of surrogates: the database would refuse them
    assert len(failure.text.splitlines()) == 1


def test_several_failures_become_one() -> None:
    failures = [
        IssuingFailed(Failure.VALIDATION, "a.test: no route", names=["a.test"]),
        IssuingFailed(Failure.VALIDATION, "b.test: 404", names=["b.test"]),
    ]
    one = joined(failures)
    assert (one.failure, one.text, one.names) == (
        Failure.VALIDATION,
        "a.test: no route; b.test: 404",
        ("a.test", "b.test"),
    )


def test_new_terms_come_with_the_page_to_agree_to_them_at() -> None:
    page = "https://ca.example/agreement"
    document = {"type": f"{PREFIX}userActionRequired", "detail": "Terms have changed", "instance": page}
    assert parse_problem(document, 403).text() == f"Terms have changed, see {page} (userActionRequired)"
    assert page not in parse_problem({**document, "type": f"{PREFIX}malformed"}, 400).text()
