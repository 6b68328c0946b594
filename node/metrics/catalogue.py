"""Every metric of a node. Names and labels are an interface: dashboards and alerts of others rest on them.

No label carries anything a client chooses: no user, no address, no mailbox.
"""

from __future__ import annotations

from typing import Final

from protocols.relay.figures import BOUNDS as RELAY_BOUNDS

from .counting import DURATIONS, LAGS, SIZES
from .family import Across, Family, Kind, Labels, Numbers


def _counter(name: str, labels: str, doc: str, across: Across = Across.SUM) -> Family:
    return Family(name, Kind.COUNTER, doc, _split(labels), across)


def _gauge(name: str, labels: str, doc: str, across: Across = Across.SUM) -> Family:
    return Family(name, Kind.GAUGE, doc, _split(labels), across)


def _histogram(name: str, labels: str, doc: str, bounds: Numbers) -> Family:
    return Family(name, Kind.HISTOGRAM, doc, _split(labels), bounds=bounds)


def _split(labels: str) -> Labels:
    return tuple(labels.split())


CONNECTIONS = (
    _gauge("sora_connections", "protocol server", "Open connections."),
    _gauge("sora_sessions", "protocol server", "Connections that are logged in."),
    _counter("sora_connections_accepted_total", "protocol server", "Connections that got a session."),
    _counter(
        "sora_connections_refused_total",
        "protocol server reason",
        "Connections that got no session: max_connections, max_connections_per_ip, blocked, proxy_untrusted,"
        " proxy_missing, proxy_malformed, not_tls, hello_timeout, hello_too_large, sni, sni_unknown,"
        " certificate_missing, certificate_expired, certificate_unusable, certificate_awaited,"
        " certificate_crowded, handshake, or left (by itself, before that).",
    ),
    _gauge("sora_session_memory_bytes", "", "Memory in large buffers of all sessions."),
    _gauge("sora_session_memory_peak_bytes", "", "The most it was."),
    _counter("sora_session_memory_refusals_total", "", "What was refused because it did not fit."),
    _gauge("sora_session_memory_limit_bytes", "", "memory_limit of the process."),
    _counter(
        "sora_connections_cut_total",
        "protocol server reason",
        "Connections ended by us: stalled (the client did not read), expired (absolute_session_timeout),"
        " too_slow (min_bytes_per_minute).",
    ),
    _counter("sora_limit_refusals_total", "", "Connections and logins refused by a limit per client."),
    _counter(
        "sora_session_bugs_total", "protocol server", "Unexpected exceptions in sessions; each is in the log."
    ),
    _counter(
        "sora_early_bytes_dropped_total",
        "protocol server",
        "Bytes sent in the clear behind STARTTLS; they are never executed, and the connection ends.",
    ),
    _counter(
        "sora_transferred_bytes_total", "protocol server direction", "Bytes in and out, without those of TLS."
    ),
)
AUTHENTICATION = (
    _counter(
        "sora_authentications_total",
        "protocol result",
        "Logins by outcome: ok, failed, blocked (not looked at, see auth_rate_limit), or unavailable (says"
        " nothing about the password).",
    ),
    _counter(
        "sora_password_verifications_total",
        "result",
        "Password checks: match, mismatch, remembered (judged before), refused (queue full or closing).",
    ),
    _gauge("sora_login_blocks", "", "Addresses and networks that are refused.", Across.MAX),
    _gauge("sora_login_records", "kind", "What is remembered: pairs, addresses, users.", Across.MAX),
    _gauge("sora_logins_delayed", "", "Logins whose answer waits because of earlier failures."),
    _counter("sora_logins_turned_away_total", "", "Logins refused because too many wait already."),
    _gauge("sora_password_verifications_waiting", "", "Password checks that run or wait for a thread."),
)
COMMANDS = (
    _counter(
        "sora_commands_total",
        "protocol command status",
        "Commands that sessions answered; DATA stands for a whole message. What POP3, LMTP and"
        " ManageSieve answer by grammar alone (NOOP, syntax errors) is not in it.",
    ),
    _histogram(
        "sora_command_duration_seconds",
        "protocol command",
        "Server time of commands that had to wait for something (storage, password check); waiting for the"
        " client is left out. Commands answered from memory are counted, not timed.",
        DURATIONS,
    ),
)
MESSAGES = (
    _counter(
        "sora_deliveries_total", "result", "Recipients of messages by the class of the answer: 2xx, 4xx, 5xx."
    ),
    _histogram("sora_message_size_bytes", "protocol", "Messages stored, by size.", SIZES),
    _counter(
        "sora_bodies_opened_total",
        "source",
        "Bodies opened, or read ahead: from memory, cache, staging or store.",
    ),
    _counter(
        "sora_bodies_failed_total",
        "reason",
        "Bodies that could not be opened: unavailable (now), or corrupt (damaged in every place).",
    ),
    _counter("sora_bodies_relocated_total", "", "Bodies found elsewhere than the first reference said."),
    _gauge("sora_mailbox_views", "", "Mailboxes held open in memory."),
)
CACHE = (
    _counter("sora_cache_operations_total", "result", "Reads of the body cache: hit or miss."),
    _counter("sora_cache_changes_total", "change", "Bodies added, evicted, or dropped because damaged."),
    _counter("sora_cache_errors_total", "", "Errors of the disk under the cache."),
    _gauge("sora_cache_used_bytes", "", "Bytes in the body cache.", Across.MAX),
    _gauge("sora_cache_capacity_bytes", "", "What it may hold.", Across.MAX),
)
UPLOADS = (
    _counter(
        "sora_object_store_operations_total",
        "operation result",
        "Objects put, got, looked at (head) or deleted, by result: ok, missing, error.",
    ),
    _histogram(
        "sora_object_store_duration_seconds",
        "operation",
        "Time of calls to the object store; a put may be of several objects.",
        DURATIONS,
    ),
    _gauge("sora_staging_bodies", "", "Bodies that wait for the object store, of all nodes.", Across.MAX),
    _gauge("sora_staging_bytes", "", "Their bytes.", Across.MAX),
    _gauge("sora_staging_limit_bytes", "", "uploader.max_staging_size; absent without one.", Across.MAX),
    _gauge(
        "sora_staging_bounded_bytes",
        "",
        "What counts against that limit: bytes in the database, or with staging on disk of this node.",
        Across.MAX,
    ),
    _gauge(
        "sora_staging_table_bytes",
        "",
        "Space of the staging tables on the database's disk, dead rows included.",
        Across.MAX,
    ),
    _counter(
        "sora_staging_refused_total",
        "reason",
        "Bodies refused for now: limit (uploader.max_staging_size) or disk (uploader.min_free_space).",
    ),
    _gauge("sora_staging_oldest_age_seconds", "", "Age of the oldest; 0 when none waits.", Across.MAX),
    _counter("sora_uploads_total", "", "Bodies brought to the object store."),
    _counter("sora_upload_bytes_total", "", "Their bytes."),
    _counter("sora_upload_failures_total", "", "Uploads that failed and are tried again."),
    _gauge("sora_uploads_paused", "", "1 while uploads pause after a failure, else 0.", Across.MAX),
    _counter("sora_uploads_adopted_total", "", "Bodies found on this disk under the name of another node."),
    _counter("sora_uploads_stuck_total", "", "Attempts on bodies that cannot be uploaded; they are kept."),
    _counter(
        "sora_cleaner_removed_total",
        "kind",
        "Removed for good: expired, messages, contents, objects, days, delivery_keys, send_log.",
    ),
    _counter("sora_cleaner_seconds_total", "kind", "Time that took."),
    _counter(
        "sora_cleaner_rounds_total",
        "result",
        "Rounds of the cleaner: whole, or cut off when their time was over.",
    ),
    _counter("sora_cleaner_failures_total", "", "Rounds of the cleaner that broke off."),
)
DATABASE = (
    _counter(
        "sora_database_round_trips_total",
        "kind",
        "Statements by kind: read, replica, write, transaction, begin, commit, rollback, retry.",
    ),
    _gauge("sora_database_connections", "role server state", "Connections to PostgreSQL, busy or idle."),
    _gauge("sora_database_connections_limit", "role server", "max_connections of the pool."),
    _gauge(
        "sora_database_replica_reachable", "server", "1 when the read replica answers, else 0.", Across.MIN
    ),
    _gauge(
        "sora_database_replica_lag_seconds",
        "server",
        "How far the replica is behind, in steps of about a second.",
        Across.MAX,
    ),
)
NODE = (
    _gauge("sora_build_info", "version", "1; the version is in the label.", Across.MAX),
    _gauge("sora_component_state", "component", "0 ok, 1 degraded, 2 down; see health.", Across.MAX),
    _gauge("sora_component_checked_timestamp_seconds", "component", "When it was checked last.", Across.MIN),
    _gauge(
        "sora_certificate_expiry_timestamp_seconds",
        "certificate",
        "When the certificate that is served expires.",
        Across.MIN,
    ),
    _gauge(
        "sora_disk_free_bytes",
        "directory",
        "Free for us on the disk of staging, cache, objects or embedded database.",
        Across.MIN,
    ),
    _gauge("sora_disk_size_bytes", "directory", "Size of that disk.", Across.MIN),
    _counter("sora_feed_dropped_total", "", "Change hints that a process did not take; views repair it."),
    _counter("sora_worker_failures_total", "worker", "Crashes of background loops, which are restarted."),
    _counter("sora_log_lines_lost_total", "", "Log lines that could not be written, as on a full disk."),
    _histogram(
        "sora_event_loop_lag_seconds", "", "How late the loop runs what is due: 4 samples a second.", LAGS
    ),
    _gauge("sora_process_start_timestamp_seconds", "", "When the process started.", Across.EACH),
    _counter("sora_process_cpu_seconds_total", "", "CPU time, user and system.", Across.EACH),
    _gauge("sora_process_resident_bytes", "", "Memory in RAM.", Across.EACH),
    _gauge("sora_process_open_files", "", "File descriptors.", Across.EACH),
)
CLUSTER = (
    _gauge("sora_cluster_members", "state", "Nodes by state, as this one sees them, itself included."),
    _gauge("sora_cluster_leads", "", "1 where this node leads; 0 or 1 over all nodes of a healthy cluster."),
    _gauge("sora_cluster_round_trip_seconds", "node", "Of the last pings to a node."),
    _gauge("sora_cluster_drifting_nodes", "", "Nodes that are configured differently."),
    _gauge(
        "sora_cluster_clock_skew_seconds", "node", "How far a clock is off from ours; absent when it is not."
    ),
    _counter("sora_cluster_packets_total", "direction", "Datagrams of gossip."),
    _counter("sora_cluster_packet_bytes_total", "direction", "Their bytes."),
    _counter("sora_cluster_packets_unsent_total", "", "Datagrams that the system did not take."),
    _counter("sora_cluster_streams_total", "direction", "Exchanges by TCP."),
    _counter("sora_cluster_stream_failures_total", "", "Those of ours that failed."),
    _counter(
        "sora_cluster_rejected_total",
        "reason",
        "Packets and streams dropped: key (another secret), plaintext, label, checksum, truncated and so on.",
    ),
    _counter("sora_cluster_probes_total", "result", "Pings by outcome: acked, acked_by_tcp, failed."),
    _counter(
        "sora_cluster_suspicions_total", "outcome", "Members suspected: raised, then refuted or confirmed."
    ),
    _counter("sora_cluster_refutations_total", "", "Times this node had to say that it is alive."),
    _counter("sora_cluster_push_pulls_total", "result", "Exchanges of all that two nodes know."),
    _gauge("sora_cluster_awareness", "", "How little this node trusts its own eyes: 0 is well, 7 the most."),
    _gauge("sora_cluster_queued", "queue", "Messages waiting to be gossiped."),
    _counter(
        "sora_cluster_dropped_total", "queue", "What did not fit: into a queue, the shared state or a bridge."
    ),
    _counter("sora_cluster_unreadable_total", "", "Facts of other nodes that this version cannot read."),
    _gauge("sora_cluster_state_entries", "", "Entries of the shared state, of all nodes."),
    _gauge("sora_cluster_state_bytes", "", "Their bytes."),
    _counter("sora_cluster_notices_total", "direction", "Changes of mailboxes told to and heard from nodes."),
    _gauge(
        "sora_cluster_directory_accounts", "where", "Accounts with IMAP sessions here, and on other nodes."
    ),
    _counter("sora_cluster_loop_delays_total", "", "Times the gossip thread came late."),
    _counter("sora_cluster_faults_total", "", "Unexpected exceptions in gossip; each is in the log."),
)

CERTIFICATES = (
    _gauge(
        "sora_certificate_generation",
        "name key_type",
        "Number of the certificate that this node shows, the same on all nodes; 0: none.",
    ),
    _gauge("sora_certificate_not_before_timestamp_seconds", "name key_type", "When its life began."),
    _gauge("sora_certificate_not_after_timestamp_seconds", "name key_type", "When its life ends."),
    _gauge("sora_certificate_renewal_timestamp_seconds", "name key_type", "When it is to be renewed."),
    _gauge("sora_certificate_due", "name key_type", "1 while it should be renewed, or is missing."),
    _counter("sora_certificate_issued_total", "ca", "Certificates that this node ordered."),
    _counter(
        "sora_certificate_failures_total",
        "class",
        "Orders of this node that failed: unreachable, timeout, rate_limited, validation, rejected_name,"
        " bad_account, lost_account, refused, unpublished, fenced, internal.",
    ),
    _counter("sora_certificate_orders_resumed_total", "", "Orders that another node, or life, had begun."),
    _counter("sora_certificate_orders_deferred_total", "", "Orders left to the node that holds the lease."),
    _gauge("sora_certificate_lease_held", "", "1 while this node orders."),
    _gauge(
        "sora_certificate_synced_timestamp_seconds",
        "",
        "When the bucket was last read whole; before that, when the node started.",
    ),
    _gauge("sora_certificate_disagreeing_ports", "", "Ports of nodes seen to show another certificate."),
    _counter(
        "sora_certificate_mirror_failures_total",
        "operation",
        "What could not be done in fallback_dir (put, get, list, delete), as on a full disk.",
    ),
    _counter(
        "sora_challenge_requests_total",
        "result",
        "Requests to the challenge port, by where the answer came from (memory, store, stateless) or why"
        " there was none (other_path, bad_token, other_host, unknown_token).",
    ),
    _gauge("sora_challenge_port_open", "", "1 while this node can answer HTTP-01 challenges."),
    _counter(
        "sora_challenge_connections_refused_total",
        "",
        "Connections that were cut off there to make room for newer ones.",
    ),
    _counter(
        "sora_certificate_objects_skipped_total",
        "reason",
        "Objects of the bucket passed over: corrupt, other_version, other_key, misplaced, invalid, vanished.",
    ),
)

RELAY = (
    _gauge("sora_relay_messages", "state", "Messages of the relay queue: pending, processing, failed."),
    _gauge(
        "sora_relay_overdue_seconds",
        "",
        "For how long the message has been due that waits longest; 0 when none is due.",
        Across.MAX,
    ),
    _counter(
        "sora_relay_submitted_total",
        "kind",
        "Messages queued: redirect, vacation, notify, reject, bounce.",
    ),
    _counter(
        "sora_relay_recipients_total",
        "kind result",
        "What became of recipients, at each attempt: taken, refused (for good), deferred.",
    ),
    _counter(
        "sora_relay_bounces_total",
        "result",
        "Reports to senders: delivered (here), queued, undeliverable, none (mail without a sender), or"
        " unwanted (the sender said so).",
    ),
    _counter("sora_relay_full_total", "", "Messages that were not taken: the queue or its disk is full."),
    _gauge(
        "sora_relay_fill_ratio",
        "",
        "Of relay_queue.max_messages or max_size, whichever is nearer; 1 is full.",
        Across.MAX,
    ),
    _counter("sora_relay_failures_total", "", "Attempts that failed because of the relay itself."),
    _counter("sora_relay_bugs_total", "", "Unexpected exceptions; each is in the log."),
    _counter("sora_relay_expired_total", "", "Failed messages removed after failed_retention."),
    _gauge("sora_relay_breaker", "", "0 in use, 1 tried again, 2 left alone after failures.", Across.MAX),
    _histogram("sora_relay_duration_seconds", "", "Time of transactions with the relay.", RELAY_BOUNDS),
)

TRAINING = (
    _counter(
        "sora_spam_training_total",
        "result class",
        "Messages that users moved into Junk (spam) or out of it (ham), by what became of the lesson: taught,"
        " refused, failed, dropped, gone, too_big, unreadable.",
    ),
    _gauge("sora_spam_training_waiting", "", "Lessons that wait for the filter."),
    _gauge("sora_spam_training_breaker", "", "0 in use, 1 tried again, 2 left alone.", Across.MAX),
)

EVENTS = (
    _counter(
        "sora_imapsieve_messages_total",
        "result",
        "Messages that users brought or changed where a script is named: ran, failed (its fault), missing (no"
        " script of that name), unavailable (storage), dropped (the node stopped), bug (in the log).",
    ),
    _gauge("sora_imapsieve_waiting", "", "Messages that wait for such a script."),
)

FAMILIES: Final = (
    *CONNECTIONS,
    *AUTHENTICATION,
    *COMMANDS,
    *MESSAGES,
    *CACHE,
    *UPLOADS,
    *DATABASE,
    *NODE,
    *CLUSTER,
    *CERTIFICATES,
    *RELAY,
    *TRAINING,
    *EVENTS,
)
