"""Our own MIME byte scanner: offsets, envelopes and text of any bytes, without ever failing on them.

Pure and linear in time. ``README.md`` beside this file has the tour and the decisions.
"""
