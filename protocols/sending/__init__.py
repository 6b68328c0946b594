"""What scripts decide to send: redirects, reports, replies and notifications, handed to the relay."""
