from __future__ import annotations

from tls.budget import CERTIFICATE, DOMAIN, FAILURE, ORDER, Limit, explained, limits, spent
from tls.wanted import Wanted

WANTED = Wanted(("imap.example.com", "mail.example.com", "mail.example.org"))
QUARTER_S = 90 * 86_400.0


def counts(**numbers: int) -> dict[Limit, int]:
    return {limit: numbers.get(limit.what, 0) for limit in limits(WANTED, QUARTER_S)}


def test_what_is_counted() -> None:
    assert [(limit.what, limit.subject, limit.most) for limit in counts()] == [
        (FAILURE, "imap.example.com", 3),
        (FAILURE, "mail.example.com", 3),
        (FAILURE, "mail.example.org", 3),
        (CERTIFICATE, WANTED.id, 3),
        (DOMAIN, "example.com", 40),
        (DOMAIN, "example.org", 40),
        (ORDER, "account", 200),
    ]


def test_each_limit_forbids_at_its_number_and_not_before() -> None:
    assert spent(counts(failure=2, certificate=2, domain=39, order=199)) is None
    for what, most in ((FAILURE, 3), (CERTIFICATE, 3), (DOMAIN, 40), (ORDER, 200)):
        limit = spent(counts(**{what: most}))
        assert limit is not None
        assert limit.what == what
        assert "budget at https://ca.example/dir is spent" in explained(limit, "https://ca.example/dir")


def test_an_emergency_may_repeat_a_certificate_but_not_failures() -> None:
    assert spent(counts(certificate=3, domain=40), is_emergency=True) is None
    assert spent(counts(failure=3), is_emergency=True) is not None


def test_a_renewal_that_the_ca_asked_for_counts_for_no_domain() -> None:
    assert spent(counts(domain=50), is_renewal_by_ca=True) is None
    assert spent(counts(certificate=3), is_renewal_by_ca=True) is not None


def test_certificates_for_hours_may_be_renewed_as_often_as_they_must() -> None:
    (same,) = (limit for limit in limits(WANTED, 3600.0) if limit.what == CERTIFICATE)
    assert same.most >= 7 * 24 * 1.5
    (six_days,) = (limit for limit in limits(WANTED, 6 * 86_400.0) if limit.what == CERTIFICATE)
    assert six_days.most == 3
    (first,) = (limit for limit in limits(WANTED, 0.0) if limit.what == CERTIFICATE)
    assert first.most == 3
