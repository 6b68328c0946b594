"""The Serf delegate, protocol 5: tags, intents, user events, queries, coordinates on top of membership."""
