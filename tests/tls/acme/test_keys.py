from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tls.acme.keys import make_request, request_der
from tls.wanted import KeyType

LONG = ".".join(["a" * 63] * 3)


@pytest.mark.parametrize(
    ("key_type", "size"), [(KeyType.P256, 256), (KeyType.P384, 384), (KeyType.RSA2048, 2048)]
)
def test_a_request_has_the_names_and_belongs_to_its_key(key_type: KeyType, size: int) -> None:
    names = [LONG, "*.example.test", "xn--bcher-kva.example"]
    key_pem, csr_pem = make_request(key_type, names)
    key = serialization.load_pem_private_key(key_pem, None)
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    assert key.key_size == size
    request = x509.load_pem_x509_csr(csr_pem)
    assert request.is_signature_valid
    assert request.public_key() == key.public_key()
    assert list(request.subject) == []
    extension = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert extension.get_values_for_type(x509.DNSName) == names
    assert x509.load_der_x509_csr(request_der(csr_pem)) == request
