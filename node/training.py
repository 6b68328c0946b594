"""Spam training as this node is configured for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.relay.breaker import Breaker
from protocols.spamtraining.endpoint import HttpEndpoint
from protocols.spamtraining.trainer import Trainer, TrainingSettings

if TYPE_CHECKING:
    from storage.api import BodySource, MailStore

    from .config import Config


def spam_trainer(config: Config, mail: MailStore, bodies: BodySource) -> Trainer | None:
    """Of one process that serves clients; None: users are not to teach."""
    options = config.spam_training
    if not options.enabled:
        return None
    breaker = options.circuit_breaker
    return Trainer(
        mail,
        bodies,
        HttpEndpoint(options.endpoint, options.auth_token.reveal(), options.timeout_s),
        Breaker(breaker.threshold, breaker.timeout_s, breaker.max_requests),
        TrainingSettings(
            options.max_message_size_bytes,
            options.max_attachment_size_bytes,
            0.0 if options.run_async else options.timeout_s,
        ),
    )
