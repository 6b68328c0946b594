"""Who is alive, and small shared facts: memberlist protocol 2, Serf delegate protocol 5, state of our own."""
